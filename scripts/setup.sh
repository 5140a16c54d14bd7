#!/usr/bin/env bash
# Makes .venv with the pinned packages and Gapless itself, editable. Needs no more than Python 3.11 or newer.
# A second run finds its stamp and does nothing. PYTHON=/path/to/python chooses the interpreter of a new .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.gapless-setup
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# Everything that the content of .venv depends on.
fingerprint() {
  cat requirements/dev.txt requirements/build.txt pyproject.toml hatch_build.py scripts/setup.sh | sha256sum
  pwd # an editable install holds the path
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
  local name
  for name in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    if new_enough "$name" && { [ $# -eq 0 ] || "$1" "$name"; }; then
      command -v "$name"
      return
    fi
  done
  return 1
}

# Debian keeps venv's half, ensurepip, in a package of its own.
install_venv() {
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
  say "this Python lacks venv: installing the Debian package python3-venv"
  { "${as_root[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -qq -y \
    --no-install-recommends python3-venv; } >&2 || die "that failed; run: sudo apt-get install python3-venv"
}

make_venv() {
  local python
  find_python >/dev/null || die "no Python 3.11 or newer found; install one, or set PYTHON=/path/to/python"
  find_python has_venv >/dev/null || install_venv
  python=$(find_python has_venv) || die "no Python has both venv and ensurepip; run: sudo apt-get install python3-venv"
  say "$("$python" --version) at $python"
  "$python" -m venv .venv
}

# The build hook reads xds-protos, whose files would overwrite other packages' in .venv (see hatch_build.py): what builds
# lives in a directory of its own for as long as the build takes, pinned like the rest.
install_project() {
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  .venv/bin/python -m pip install -qq --require-hashes --target "$build" -r requirements/build.txt
  PYTHONPATH=$build .venv/bin/python -m pip install -qq --no-deps --no-build-isolation --editable .
}

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ]; then
  exit 0
fi
[ -x .venv/bin/python ] && .venv/bin/python -c 'import pip' 2>/dev/null || make_venv
say "installing the pinned packages (once, about a minute)"
.venv/bin/python -m pip install -qq --require-hashes -r requirements/dev.txt
install_project
fingerprint >"$stamp"
say "done"

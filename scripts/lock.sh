#!/usr/bin/env bash
# Pins what pyproject.toml asks for, with hashes, into requirements/*.txt. Pass --upgrade for newer versions.
set -euo pipefail
cd "$(dirname "$0")/.."

lock() {
  local output=$1
  shift
  .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header \
    --output-file "requirements/$output" "$@"
}

upgrade=("$@")
lock dev.txt pyproject.toml --extra gateway --group dev "${upgrade[@]}"
lock bench.txt pyproject.toml --extra gateway --group dev --group bench --constraints requirements/dev.txt
# The smaller sets are parts of the greater one: what was tested is what is installed.
lock gateway.txt pyproject.toml --extra gateway --constraints requirements/dev.txt
lock runtime.txt pyproject.toml --constraints requirements/dev.txt
# hatchling asks for editables by itself when the install is editable.
.venv/bin/python -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], "editables~=0.3", sep="\n")
' | lock build.txt - --no-annotate --constraints requirements/dev.txt

if grep -nE '://|^-|/(home|root|tmp|work)' requirements/*.txt; then
  echo "lock: the lines above name a host or a path; they must not be kept" >&2
  exit 1
fi

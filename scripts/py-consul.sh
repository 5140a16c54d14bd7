#!/usr/bin/env bash
# Unpacks py-consul's source distribution, whose tests our registry passes, into .venv/conformance, and prints where. It is
# pinned by its hash, by hand; what it needs is in requirements/dev.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

pin=requirements/py-consul.txt
name=$(sed -n 's/^py-consul==\([^ ]*\).*/py_consul-\1/p' "$pin")
place=.venv/conformance
if ! cmp -s "$pin" "$place/$name.pinned"; then
  rm -rf "$place"
  mkdir -p "$place"
  .venv/bin/python -m pip download -qq --no-deps --no-binary :all: --no-build-isolation --require-hashes \
    --dest "$place" -r "$pin" >&2
  tar -xzf "$place/$name.tar.gz" -C "$place"
  cp "$pin" "$place/$name.pinned"
fi
echo "$PWD/$place/$name"

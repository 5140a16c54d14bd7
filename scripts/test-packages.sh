#!/usr/bin/env bash
# The real servers that the integration tests start for themselves. Installs the Debian packages that are missing, when it
# may; a test whose server is missing fails and names the package.
set -euo pipefail

say() { printf 'test-packages: %s\n' "$*" >&2; }

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
# The tests start servers of their own: the packages' must not run, and no cluster is made.
say "installing ${missing[*]}"
{ "${as_root[@]}" apt-get update -qq && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
  apt-get install -qq -y --no-install-recommends "${missing[@]}"; } >&2 ||
  say "that failed; run: sudo apt-get install ${missing[*]}"
for service in redis-server postgresql; do
  "${as_root[@]}" service "$service" stop >/dev/null 2>&1 || true
done

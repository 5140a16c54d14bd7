#!/usr/bin/env bash
# The real programs that the integration and end-to-end tests start for themselves. Installs the Debian packages that are
# missing, when it may; a test whose program is missing fails and names the package.
set -euo pipefail

say() { printf 'test-packages: %s\n' "$*" >&2; }

missing=()
command -v git >/dev/null || missing+=(git)
command -v ip >/dev/null || missing+=(iproute2)
command -v redis-server >/dev/null || missing+=(redis-server)
[ -x /lib/systemd/systemd ] || missing+=(systemd)
command -v etcd >/dev/null || missing+=(etcd-server)
command -v haproxy >/dev/null || [ -x /usr/sbin/haproxy ] || missing+=(haproxy)
command -v prometheus >/dev/null || missing+=(prometheus)
command -v prometheus-alertmanager >/dev/null || missing+=(prometheus-alertmanager)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
command -v chromium >/dev/null || missing+=(chromium)
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
# The tests start servers of their own: the packages' must not run, and no cluster is made.
say "installing ${missing[*]}"
{ "${as_root[@]}" apt-get update -qq && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
  apt-get install -qq -y --no-install-recommends "${missing[@]}"; } >&2 ||
  say "that failed; run: sudo apt-get install ${missing[*]}"
for service in redis-server postgresql etcd haproxy prometheus prometheus-alertmanager; do
  "${as_root[@]}" service "$service" stop >/dev/null 2>&1 || true
done

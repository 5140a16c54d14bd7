#!/usr/bin/env bash
# What the tests run under Node: a client of Consul; for the console, Playwright (it drives Debian's Chromium) and axe;
# for traces, Elastic's OTLP server with what it loads of others. Exact versions, each checked by the hash of its archive,
# into .venv/npm/node_modules. A second run finds them and does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

# What consul needs of others, it needs in these versions or newer ones of the same major number.
pinned='
consul 2.0.1 91ExUUelOJ1yyB0etYAR0w1p6Ues1VosEyBVxPcWJdnQDTKqAEFzL0MHfOqZWYI2d4HZ4FgotHZkAPW2A/xahA==
axe-core 4.14.1 FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==
papi 1.1.2 cwM6pPpfAYgPe3EQi23SmB5J5s4XFS9lou9z63I5BbnMGmFaR8LAKvKboW7n1IUAKj76OtnyK0YU16JjnZrqVg==
playwright-core 1.65.1 hqPpz7blSMPxWVdoeE1yiBSzXsKiVOd2k+kjCvmUywD2GPO2Dd9HfcWnq9NN0GHbNZDFgZ9JfBFr+X5/BLo0qw==
@elastic/mockotlpserver 0.10.0 Oau6R/achnZd+ih5HPAsfmFddVZPJrHzoRSgeg3Rn3AhkQaIRvp7uKrERqv1Cn/irfaGxaAOPBBd+oq+JMfqHg==
safe-stable-stringify 2.5.0 b3rppTKm9T+PsVCBEOUR46GWI7fdOs00VKZ1+9c1EWDaDMvjQc6tUwuFyIprgGgTcWoVHSKrU8H31ZHA2e0RHA==
protobufjs 7.6.6 dYDWdjSl5RNb7SgPxGQcRU+GtvP7s2fpkrY0r432PcOIaZ0/rBcxEZnQN67iJhFuQiVw754JDoPruPCNdGsbjg==
@protobufjs/aspromise 1.1.2 j+gKExEuLmKwvz3OgROXtrJ2UG2x8Ch2YZUxahh+s1F2HZ+wAceUNLkvy6zKCPVRkU++ZWQrdxsUeQXmcg4uoQ==
@protobufjs/base64 1.1.2 AZkcAA5vnN/v4PDqKyMR5lx7hZttPDgClv83E//FMNhR2TMcLUhfRUBHCmSl0oi9zMgDDqRUJkSxO3wm85+XLg==
@protobufjs/eventemitter 1.1.1 vW1GmwMZNnL+gMRaovlh9yZX74kc+TTU3FObkkurpMaRtBfLP3ldjS9KQWlwZgraRE0+dheEEoAxdzcJQ8eXZg==
@protobufjs/float 1.0.2 Ddb+kVXlXst9d+R9PfTIxh1EdNkgoRe5tOX6t01f1lYWOvJnSPDBlG241QLzcyPdoNTsblLUdujGSE4RzrTZGQ==
@protobufjs/utf8 1.1.2 b1UQwcEZ4yCnMCD8DAL1VlbvBJE9/IX4FTIp7BG1xYpf29SLazLSrqUkj4w7Y5y7cCVP6E5tcqqcI0xemPkHug==
@protobufjs/pool 1.1.0 0kELaGSIDBKvcgS4zkjz1PeddatrjYcmMWOlAuAPwAeccUrPHdUqo/J6LiymHHEiJT5NrF1UVwxY14f+fy4WQw==
long 5.3.2 mNAgZ1GmyNhD7AuqnTG3/VQ26o760+ZYBPKjPvugO8+nLbYfX6TVpJPseBvopbdY+qpZ/lKUnmEc1LeZYS3QAA==
@protobufjs/codegen 2.0.5 zgXFLzW3Ap33e6d0Wlj4MGIm6Ce8O89n/apUaGNB/jx+hw+ruWEp7EwGUshdLKVRCxZW12fp9r40E1mQrf/34g==
@protobufjs/fetch 1.1.1 GpptLrs57adMSuHi3VNj0mAF8dwh36LMaYF6XyJ6JMWlVsc+t42tm1HSEDmOs3A8fC9yyeisgLhsTVQokOZ0zw==
@protobufjs/path 1.1.2 6JOcJ5Tm08dOHAbdR3GrvP+yUUfkjG5ePsHYczMFLq3ZmMkAD98cDgcT2iA1lJ9NVwFd4tH/iSSoe44YWkltEA==
@grpc/grpc-js 1.14.7 W4W/fcBMGRVtG6dW2c7cw2mnpS3hvbBd+oQXjh2iYFTZDk1JJmcNqkM5KSaPubQpamlUUurrlb7G1s9NJeERmQ==
@js-sdsl/ordered-map 4.4.2 iUKgm52T8HOE/makSxjqoWhe95ZJA1/G1sYsGev2JDKUSS14KAgg1LHb+Ba+IPow0xflbnSkOsZcO08C7w1gYw==
@grpc/proto-loader 0.8.1 wtF6h+DY6M3YaDBPAmvuuA6jV8Sif9MjtOI5euKFWRgCDl5PeDpPsHR9u2l6St5ceY8AZgoNDww5+HvEsXFsGg==
lodash.camelcase 4.3.0 TwuEnCnxbc3rAvhf/LbG7tJUDzhqXyFnv3dtzLOPgCG/hODL7WFnsbwktkD7yUV0RrreP/l1PALq/YSg6VvjlA==
uuid 10.0.0 8XkAphELsDnEGrDxUOHB3RGvXz6TeuYSGEZBOjtTtPm2lwhGBjLgOzLHB63IUWfBpNucQjND6d3AOudO+H3RWQ==
'
into=.venv/npm
stamp=$into/stamp

sha512() { # as npm writes it
  .venv/bin/python -c 'import base64, hashlib, sys
print(base64.b64encode(hashlib.sha512(open(sys.argv[1], "rb").read()).digest()).decode())' "$1"
}

say() { printf 'npm-packages: %s\n' "$*" >&2; }

# $(…) drops the last line's end.
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "${pinned%$'\n'}" ] && exit 0
command -v npm >/dev/null || { say "npm is not installed: apt-get install -y --no-install-recommends nodejs npm"; exit 1; }
archives=$(mktemp -d)
trap 'rm -rf "$archives"' EXIT
rm -rf "$into"
specs=$(awk 'NF {print $1 "@" $2}' <<<"$pinned")
# shellcheck disable=SC2086 # each is a word
npm pack --silent --pack-destination "$archives" $specs >/dev/null
while read -r name version sha512; do
  [ -n "$name" ] || continue
  plain=${name#@}
  archive=$archives/${plain/\//-}-$version.tgz
  found=$(sha512 "$archive")
  [ "$found" = "$sha512" ] || { say "$name $version is not what was pinned: its sha512 is $found"; exit 1; }
  mkdir -p "$into/node_modules/$name"
  tar xzf "$archive" --strip-components=1 -C "$into/node_modules/$name"
done <<<"$pinned"
printf '%s' "$pinned" >"$stamp"

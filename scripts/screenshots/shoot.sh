#!/usr/bin/env bash
# The pictures of docs/images: a system of six services under load, with a rollout under way, photographed by Debian's
# Chromium in light and dark. Takes some five minutes. Needs: make setup, make packages, and for the typeface fonts-inter.
set -euo pipefail
cd "$(dirname "$0")/../.."
gapless=$PWD/.venv/bin/gapless
state=$(mktemp -d /tmp/g-XXXX)
pids=()

finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  "$gapless" down --file scripts/screenshots/gapless.yaml --state "$state" >/dev/null 2>&1 || true
  wait
  rm -rf "$state"
}
trap finish EXIT

ask() { "$gapless" "$@" --file scripts/screenshots/gapless.yaml --state "$state"; }
load() { "$gapless" load "http://127.0.0.1:18080$1" --rate "$2" --for 20m --users 2000 >/dev/null 2>&1 & pids+=($!); }

ask up >"$state.log" 2>&1 & pids+=($!)
until ask status --json 2>/dev/null | grep -q '"ready": true'; do kill -0 "${pids[0]}"; sleep 1; done
load / 25
load /orders 9
load /search 14
sleep 100
ask config set orders discount_percent=5 --why "spring prices" --ticket SHOP-371
ask config set orders discount_percent=10 banner="Winter sale" --why "winter sale" --ticket SHOP-398
cp -r scripts/screenshots "$state/next"
ask deploy search --release 3.1.0 --from "$state/next" --why "synonyms" --ticket SHOP-405 --detach
sleep 20
ask deploy storefront --release 2.4.0 --from "$state/next" --why "new front page" --ticket SHOP-412 --detach
sleep 75
node scripts/screenshots/shoot.mjs .venv/npm http://127.0.0.1:18070 docs/images
du -ch docs/images/*.webp | tail -1

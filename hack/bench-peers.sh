#!/usr/bin/env bash
# Makes .state/bench-peers with the peers of `python -m bench.checkpoint`, which cannot live beside boto3[crt], from
# their own hash-locked file. Safe to run again: with the same file it ends at once.
# --lock resolves bench/checkpoint-peers.in into that file instead; versions that are locked stay, unless --upgrade.
set -euo pipefail
cd "$(dirname "$0")/.."

locked=bench/checkpoint-peers.txt
place=.state/bench-peers
stamp=$place/.internvl-stamp

if [[ ${1:-} == --lock ]]; then
  exec .venv/bin/uv pip compile bench/checkpoint-peers.in --python-version 3.12 --generate-hashes --quiet \
    --custom-compile-command "hack/bench-peers.sh --lock" --output-file "$locked" "${@:2}"
fi

python=$(hack/find-python.sh)
digest=$({
  "$python" --version
  cat "$locked"
} | sha256sum)
if [[ -f $stamp && $(<"$stamp") == "$digest" ]] && "$place/bin/python" -c '' 2>/dev/null; then
  exit 0
fi

SECONDS=0
# Two that fill one environment would break it.
mkdir -p .state
exec 9>.state/bench-peers.lock
flock 9
echo "   making $place (torch comes from uv's cache where .venv has it; else about 5 GB) ..." >&2
.venv/bin/uv venv --quiet --clear --python "$python" "$place"
# torch alone has thousands of files: quiet, but for errors.
VIRTUAL_ENV=$PWD/$place .venv/bin/uv pip install --quiet --require-hashes --compile-bytecode --requirement "$locked"
printf '%s\n' "$digest" >"$stamp"
echo "ok $place is ready ($SECONDS s)" >&2

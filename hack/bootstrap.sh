#!/usr/bin/env bash
# Makes .venv with everything that the project needs, from the locked files in constraints/, every package by hash.
# Safe to run again: a second run with the same locked files ends at once, and an interrupted one goes on.
set -euo pipefail
cd "$(dirname "$0")/.."

locked=(constraints/operator.txt constraints/trainer.txt constraints/dev.txt)
installer=hack/bootstrap-requirements.txt
stamp=.venv/.internvl-stamp

python=$(hack/find-python.sh)
digest=$({
  "$python" --version
  cat "$installer" "${locked[@]}" pyproject.toml
} | sha256sum)
if [[ -f $stamp && $(<"$stamp") == "$digest" ]] && .venv/bin/python -c '' 2>/dev/null; then
  exit 0
fi

SECONDS=0
# Two that fill one environment would break it.
mkdir -p .state
exec 9>.state/venv.lock
flock 9
if ! .venv/bin/python -c 'import pip' >/dev/null 2>&1; then
  echo "   making .venv with $("$python" --version) ..." >&2
  "$python" -m venv --clear .venv
fi
if ! .venv/bin/uv --version >/dev/null 2>&1; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement "$installer"
fi
echo "   installing the locked packages (about 6 GB; minutes for the first time, seconds from uv's cache) ..." >&2
quiet=()
# The list of 240 packages belongs in no log.
[[ -t 2 ]] || quiet=(--quiet)
export VIRTUAL_ENV=$PWD/.venv
requirements=()
for file in "${locked[@]}"; do requirements+=(--requirement "$file"); done
.venv/bin/uv pip install "${quiet[@]}" --require-hashes --compile-bytecode "${requirements[@]}"
.venv/bin/uv pip install --quiet --no-deps --editable .
printf '%s\n' "$digest" >"$stamp"
echo "ok .venv is ready ($SECONDS s)" >&2

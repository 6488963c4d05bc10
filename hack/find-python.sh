#!/usr/bin/env bash
# Prints the path of a Python >= 3.12 that really starts and can make virtual environments. A name on PATH proves
# nothing: pyenv puts a shim there for every version that it knows, and the shim fails unless that version is selected.
set -euo pipefail

usable() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

if [[ -n ${INTERNVL_PYTHON:-} ]] && ! usable "$INTERNVL_PYTHON"; then
  echo "INTERNVL_PYTHON is $INTERNVL_PYTHON, which is no Python 3.12 or newer that starts and has venv: name another" >&2
  exit 1
fi

shopt -s nullglob
# pyenv's folder: what it is told, its usual place, and where its command lies (another user's home, a shared folder).
pyenv=$(command -v pyenv || true)
roots=("${PYENV_ROOT:-$HOME/.pyenv}" "${pyenv%/bin/pyenv}")
# The locked packages were resolved for 3.12: the nearest version comes first.
candidates=("${INTERNVL_PYTHON:-}")
for version in 3.12 3.13 3.14; do
  candidates+=("$(command -v "python$version" || true)")
  for root in "${roots[@]}"; do candidates+=("$root"/versions/"$version"*/bin/"python$version"); done
done
candidates+=("$(command -v python3 || true)")

for candidate in "${candidates[@]}"; do
  if [[ -n $candidate ]] && usable "$candidate"; then
    # Past any shim, to the interpreter itself.
    exec "$candidate" -c 'import sys; print(sys.executable)'
  fi
done

echo "no Python 3.12 or newer that starts was found on PATH or in ~/.pyenv/versions:" \
  "install one (with its venv module), or name one in INTERNVL_PYTHON" >&2
exit 1

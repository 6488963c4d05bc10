#!/usr/bin/env bash
# Resolves pyproject.toml into the hash-locked files of constraints/. Versions that are locked already stay,
# unless --upgrade is given. No download address is recorded.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() {
  .venv/bin/uv pip compile pyproject.toml --python-version 3.12 --generate-hashes --quiet \
    --custom-compile-command "make lock" "$@"
}
# dev.txt holds everything; the two smaller ones, which the images install, are cut from the same resolution.
compile --all-extras --output-file constraints/dev.txt "$@"
compile --extra operator --constraint constraints/dev.txt --output-file constraints/operator.txt
compile --extra trainer --constraint constraints/dev.txt --output-file constraints/trainer.txt
# What the Dockerfile builds the wheel with.
.venv/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' |
  .venv/bin/uv pip compile - --python-version 3.12 --generate-hashes --quiet --no-annotate \
    --custom-compile-command "make lock" --output-file constraints/build.txt "$@"

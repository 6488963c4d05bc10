#!/usr/bin/env bash
# Whether this machine has what the project needs. Each thing that is missing is one clear line with its remedy, and
# nothing is changed. `preflight.sh venv` asks only what the Python environment needs, `preflight.sh build` what building
# the cluster's parts needs.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! python=$(hack/find-python.sh 2>&1); then
  echo "preflight: $python" >&2
  # Without Python the rest cannot be asked; this much the shell can tell.
  if [[ -z ${1:-} && $EUID -ne 0 ]]; then
    echo "preflight: user id is $EUID, but containers need root: run as root, or use a cluster that you have (KUBECONFIG)" >&2
  fi
  exit 1
fi
# -B: not even a cache of compiled modules is written.
if [[ ${1:-} == demo-current ]]; then
  exec "$python" -B -m hack.demo.preflight
fi
exec "$python" -B -m hack.cluster.preflight "$@"

"""Environment variables by which the operator tells a pod's launcher its place in the job.

The training-operator sets RANK and MASTER_ADDR only where a Master replica exists. Ours are Worker-only jobs, which
need no init container and succeed only when every worker did, so the operator gives these itself: the node's rank
through the downward API (label `training.kubeflow.org/replica-index`), the rest as plain values. The launcher turns
them into torchrun's contract (RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, GROUP_RANK, MASTER_ADDR, MASTER_PORT)
for each process.
"""

NODE_RANK = "INTERNVL_NODE_RANK"
"""0-based index of this pod."""

NODES = "INTERNVL_NODES"
"""Number of pods of the job."""

PROCESSES_PER_NODE = "INTERNVL_PROCESSES_PER_NODE"
"""Processes, that is accelerators, of each pod."""

MASTER_ADDR = "INTERNVL_MASTER_ADDR"
"""DNS name of pod 0's headless Service."""

MASTER_PORT = "INTERNVL_MASTER_PORT"
"""TCP port of the rendezvous store on pod 0."""

SCRATCH = "INTERNVL_SCRATCH"
"""Folder for staging checkpoints and caching data; node-local, writable, lost with the pod."""

GRACE_SECONDS = "INTERNVL_GRACE_SECONDS"
"""Seconds between SIGTERM and SIGKILL that the pod has (its terminationGracePeriodSeconds)."""

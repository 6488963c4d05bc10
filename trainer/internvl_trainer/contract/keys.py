"""Where things lie in the object store: pure functions from a run's identity to object URIs.

Every key begins with the run's UID and carries stage and attempt, so that a late upload of a dead attempt lands
beside, never over, what the living attempt writes:

    <storage uri>/<run uid>/<stage>/step-00000040/a2/MANIFEST.json        a checkpoint of attempt 2
    <storage uri>/<run uid>/<stage>/published/a2/vision.json              a component handed to other runs
"""

import re
from typing import NamedTuple

from internvl_trainer.contract.base import Component

MANIFEST_NAME = "MANIFEST.json"
METRICS_NAME = "metrics.jsonl"
"""One line per optimizer step since the stage began; part of each checkpoint: a resumed stage keeps its past."""

_CHECKPOINT = re.compile(r"(?P<stage>[^/]+)/step-(?P<step>\d{8,})/a(?P<attempt>\d+)/MANIFEST\.json$")


class CheckpointKey(NamedTuple):
    """Stage, optimizer step and attempt of a checkpoint, as its manifest's URI says them."""

    stage: str
    step: int
    attempt: int


def run_prefix(storage_uri: str, run_uid: str) -> str:
    """The folder that holds all objects of one run, with a trailing slash."""
    return f"{storage_uri.rstrip('/')}/{run_uid}/"


def stage_prefix(storage_uri: str, run_uid: str, stage: str) -> str:
    """The folder that holds all objects of one stage, with a trailing slash."""
    return f"{run_prefix(storage_uri, run_uid)}{stage}/"


def checkpoint_prefix(storage_uri: str, run_uid: str, stage: str, step: int, attempt: int) -> str:
    """The folder of one checkpoint, with a trailing slash. `step` counts finished optimizer steps."""
    return f"{stage_prefix(storage_uri, run_uid, stage)}step-{step:08d}/a{attempt}/"


def manifest_uri(storage_uri: str, run_uid: str, stage: str, step: int, attempt: int) -> str:
    """The object that makes a checkpoint exist."""
    return checkpoint_prefix(storage_uri, run_uid, stage, step, attempt) + MANIFEST_NAME


def component_uri(storage_uri: str, run_uid: str, stage: str, attempt: int, component: Component) -> str:
    """The manifest by which a stage hands one component to other runs."""
    return f"{stage_prefix(storage_uri, run_uid, stage)}published/a{attempt}/{component}.json"


def index_prefix(storage_uri: str) -> str:
    """The folder that keeps indexes of data sets, shared by all runs of one storage: their names are digests."""
    return f"{storage_uri.rstrip('/')}/data-index/"


def parse_manifest_key(key_or_uri: str) -> CheckpointKey | None:
    """Stage, step and attempt from the end of a manifest's key or URI; None where it is no checkpoint manifest."""
    match = _CHECKPOINT.search(key_or_uri)
    if match is None:
        return None
    return CheckpointKey(match["stage"], int(match["step"]), int(match["attempt"]))

"""Where things lie in the object store: pure functions from a run's identity to object URIs.

Every key begins with the run's UID and carries stage and attempt, so that a late upload of a dead attempt lands
beside, never over, what the living attempt writes:

    <storage uri>/<run uid>/<stage>/step-00000040/a2/MANIFEST.json        a checkpoint of attempt 2
    <storage uri>/<run uid>/<stage>/step-00000040/a2/PINNED.json          present: retention leaves it alone
    <storage uri>/<run uid>/<stage>/step-00000040/a2/published/vision.json  a component published by hand
    <storage uri>/<run uid>/<stage>/published/a2/vision.json              a component handed to other runs
    <storage uri>/<run uid>/<stage>/attempts/a2.json                      where attempt 2 began: fences off attempt 1
    <storage uri>/<run uid>/<stage>/attempts/a2-newest.json               a hint: its newest checkpoint
"""

import re
from typing import NamedTuple

from internvl_trainer.contract.base import Component

MANIFEST_NAME = "MANIFEST.json"
PIN_NAME = "PINNED.json"
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


def published_by_hand_uri(manifest_uri: str, component: Component) -> str:
    """The manifest by which a person hands one component of a checkpoint to other runs."""
    return f"{folder_of(manifest_uri)}published/{component}.json"


def pin_uri(manifest_uri: str) -> str:
    """The object that keeps a checkpoint from being removed."""
    return folder_of(manifest_uri) + PIN_NAME


def attempts_prefix(storage_uri: str, run_uid: str, stage: str) -> str:
    """The folder of the records of a stage's attempts, with a trailing slash."""
    return f"{stage_prefix(storage_uri, run_uid, stage)}attempts/"


def attempt_uri(storage_uri: str, run_uid: str, stage: str, attempt: int) -> str:
    """The record of where an attempt began."""
    return f"{attempts_prefix(storage_uri, run_uid, stage)}a{attempt}.json"


def newest_uri(storage_uri: str, run_uid: str, stage: str, attempt: int) -> str:
    """The hint at an attempt's newest checkpoint, which is written over."""
    return f"{attempts_prefix(storage_uri, run_uid, stage)}a{attempt}-newest.json"


def folder_of(uri: str) -> str:
    """The folder that an object lies in, with a trailing slash."""
    return uri.rpartition("/")[0] + "/"


def index_prefix(storage_uri: str) -> str:
    """The folder that keeps indexes of data sets, shared by all runs of one storage: their names are digests."""
    return f"{storage_uri.rstrip('/')}/data-index/"


def parse_manifest_key(key_or_uri: str) -> CheckpointKey | None:
    """Stage, step and attempt from the end of a manifest's key or URI; None where it is no checkpoint manifest."""
    match = _CHECKPOINT.search(key_or_uri)
    if match is None:
        return None
    return CheckpointKey(match["stage"], int(match["step"]), int(match["attempt"]))

"""kopf's part: which events wake a run, and that nothing is ever written to an object by kopf itself."""

from typing import Any

import kopf
import pytest

from internvl_operator.adapters.health import Heartbeat
from internvl_operator.adapters.metrics import Metrics
from internvl_operator.config import ReconcileSettings
from internvl_operator.handlers.runs import Outcome, RunKey, Runs
from internvl_operator.handlers.watch import _Changes, build_registry, build_settings

pytestmark = pytest.mark.unit

SELECTOR = {"app.kubernetes.io/managed-by": "internvl-operator"}


async def nothing(_: RunKey) -> Outcome:
    return Outcome()


@pytest.fixture
async def registry() -> kopf.OperatorRegistry:
    runs = Runs(nothing, ReconcileSettings(), Heartbeat(1), Metrics())
    return build_registry(runs, selector=SELECTOR, run_label="training.internvl.dev/name")


def event(kind: str | None, *, generation: int = 1, uid: str = "uid-1", **metadata: Any) -> kopf.RawEvent:
    body = {"metadata": {"name": "run", "namespace": "team", "uid": uid, "generation": generation, **metadata}}
    return kopf.RawEvent(type=kind, object=body)  # type: ignore[typeddict-item]


async def test_no_handler_makes_kopf_write(registry: kopf.OperatorRegistry) -> None:
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()
    assert not registry._indexing.get_all_handlers()
    watched = {(handler.selector.group, handler.selector.any_name) for handler in registry._watching.get_all_handlers()}
    assert watched == {
        ("training.internvl.dev", "internvltrainings"), ("kubeflow.org", "pytorchjobs"), ("batch", "jobs"),
        ("", "pods"),
    }  # fmt: skip


def test_children_are_filtered_by_the_api_server() -> None:
    selectors = build_settings(SELECTOR, exit_seconds=20).watching.label_selectors
    assert dict(selectors.items()).values()
    assert set(selectors.values()) == {"app.kubernetes.io/managed-by=internvl-operator"}
    assert len(selectors) == 3


def test_kopf_looks_at_nothing_beyond_what_is_served() -> None:
    settings = build_settings(SELECTOR, exit_seconds=20)
    assert settings.scanning.disabled
    assert not settings.posting.enabled
    assert settings.persistence.finalizer.startswith("training.internvl.dev/")


def test_the_echo_of_our_own_status_write_is_no_change() -> None:
    changes = _Changes()
    assert changes.is_essential(event("ADDED"))
    assert not changes.is_essential(event("MODIFIED"))


def test_a_new_spec_and_a_deletion_are_changes() -> None:
    changes = _Changes()
    changes.is_essential(event("ADDED"))
    assert changes.is_essential(event("MODIFIED", generation=2))
    assert changes.is_essential(event("MODIFIED", generation=2, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert changes.is_essential(event("DELETED", generation=2))


def test_a_listing_is_always_a_change_since_a_break_in_the_watch_precedes_it() -> None:
    changes = _Changes()
    changes.is_essential(event("ADDED"))
    assert changes.is_essential(event(None))


def test_a_namesake_is_another_run() -> None:
    changes = _Changes()
    changes.is_essential(event("ADDED"))
    assert changes.is_essential(event("MODIFIED", uid="uid-2"))

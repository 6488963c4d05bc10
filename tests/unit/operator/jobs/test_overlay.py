"""Laying pod templates over each other."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_operator.jobs.overlay import OverlayError, lay_over

pytestmark = pytest.mark.unit

BASE: dict[str, Any] = {
    "spec": {
        "containers": [
            {
                "name": "pytorch",
                "image": "trainer:1",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
            }
        ],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "tolerations": [{"key": "a"}],
        "securityContext": {"runAsUser": 1000, "runAsNonRoot": True},
    }
}


def laid(spec: dict[str, Any]) -> dict[str, Any]:
    return lay_over(BASE, {"spec": spec})["spec"]


def test_an_empty_overlay_changes_nothing() -> None:
    assert lay_over(BASE, {}) == BASE


def test_containers_are_merged_by_name_and_their_variables_too() -> None:
    (container,) = laid({"containers": [{"name": "pytorch", "env": [{"name": "B", "value": "3"}, {"name": "C"}]}]})[
        "containers"
    ]

    assert container["image"] == "trainer:1"
    assert container["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C"}]


def test_a_container_of_another_name_is_added_behind() -> None:
    assert [item["name"] for item in laid({"containers": [{"name": "sidecar"}]})["containers"]] == [
        "pytorch", "sidecar",
    ]  # fmt: skip


def test_a_volume_is_replaced_so_that_it_never_has_two_sources() -> None:
    claim = {"name": "scratch", "persistentVolumeClaim": {"claimName": "fast"}}

    assert laid({"volumes": [claim, {"name": "data", "emptyDir": {}}]})["volumes"] == [
        claim, {"name": "data", "emptyDir": {}},
    ]  # fmt: skip


def test_a_variable_is_replaced_so_that_it_never_has_two_values() -> None:
    secret = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}

    (container,) = laid({"containers": [{"name": "pytorch", "env": [secret]}]})["containers"]

    assert container["env"][0] == secret


def test_mounts_are_merged_by_their_path() -> None:
    mounts = [{"name": "fast", "mountPath": "/scratch"}, {"name": "data", "mountPath": "/data"}]

    (container,) = laid({"containers": [{"name": "pytorch", "volumeMounts": mounts}]})["containers"]

    assert container["volumeMounts"] == mounts


def test_lists_without_a_key_are_replaced_and_null_removes() -> None:
    spec = laid({"tolerations": [{"key": "b"}], "securityContext": {"runAsUser": None}})

    assert spec["tolerations"] == [{"key": "b"}]
    assert spec["securityContext"] == {"runAsNonRoot": True}


def test_an_item_without_its_key_is_refused_with_its_place() -> None:
    with pytest.raises(OverlayError, match=r"podTemplate\.spec\.containers\[0\] needs the field 'name'"):
        laid({"containers": [{"image": "x"}]})


NAMES = st.sampled_from(["a", "b", "c", "d"])
SCALARS = st.integers() | st.text(max_size=3)
OVERLAYS = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.dictionaries(NAMES, SCALARS, max_size=3),
        "env": st.lists(st.fixed_dictionaries({"name": NAMES, "value": SCALARS}), max_size=4),
        "containers": st.lists(st.fixed_dictionaries({"name": NAMES}, optional={"image": SCALARS}), max_size=4),
        "args": st.lists(SCALARS, max_size=3),
    },
)


@given(OVERLAYS, OVERLAYS)
def test_the_overlay_prevails_in_all_that_it_says_and_keys_stay_unique(base: dict, overlay: dict) -> None:
    base = lay_over({}, base)

    merged = lay_over(base, overlay)

    assert lay_over(merged, overlay) == merged
    for field in ("env", "containers"):
        names = [item["name"] for item in merged.get(field, [])]
        assert len(names) == len(set(names))
        assert {item["name"] for item in [*base.get(field, []), *overlay.get(field, [])]} == set(names)
    assert merged.get("args") == overlay.get("args", base.get("args"))

"""The Kubernetes adapter against a real API server: idempotent writes, and failures by type."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from hack.cluster.control_plane import ControlPlane
from internvl_operator.adapters.kube import (
    CONFIG_MAPS,
    PYTORCH_JOBS,
    TRAININGS,
    JsonObject,
    Kubernetes,
    Resource,
    Severity,
)
from internvl_operator.adapters.kube_errors import (
    ConflictError,
    InvalidObjectError,
    KubernetesError,
    NotFoundError,
    OwnedByAnotherError,
    UnavailableError,
)
from tests.integration.operator.conftest import Make
from tests.integration.operator.harness import Cluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
async def kube(api_server: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kubernetes]:
    from kubernetes.aio.config import kube_config

    # The official client reads the variable once, when it is imported.
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(api_server.kubeconfig))
    async with await Kubernetes.connect(reporter="internvl-operator", instance="test") as kube:
        yield kube


@pytest.fixture
async def owner(kube: Kubernetes, cluster: Cluster, make_training: Make) -> JsonObject:
    cluster.submit(make_training())
    found = await kube.get(TRAININGS, cluster.namespace, "run")
    assert found is not None
    return found


def config_map(owner: JsonObject, name: str = "child") -> JsonObject:
    reference = {key: owner[key] for key in ("apiVersion", "kind")}
    reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
    metadata = {"name": name, "namespace": owner["metadata"]["namespace"], "ownerReferences": [reference]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}}


async def test_creating_twice_is_creating_once(kube: Kubernetes, owner: JsonObject) -> None:
    first = await kube.create(CONFIG_MAPS, config_map(owner))
    second = await kube.create(CONFIG_MAPS, config_map(owner))
    assert first["metadata"]["uid"] == second["metadata"]["uid"]


async def test_a_name_that_another_owner_has_taken(
    kube: Kubernetes, owner: JsonObject, cluster: Cluster, make_training: Make
) -> None:
    uid = cluster.submit(make_training("other"))
    foreign = config_map(owner)
    foreign["metadata"]["ownerReferences"][0] |= {"name": "other", "uid": uid}
    await kube.create(CONFIG_MAPS, foreign)
    with pytest.raises(OwnedByAnotherError, match=f"owned by {uid}; delete it"):
        await kube.create(CONFIG_MAPS, config_map(owner))


async def test_deleting_spares_a_newer_object_of_the_same_name(kube: Kubernetes, owner: JsonObject) -> None:
    created = await kube.create(CONFIG_MAPS, config_map(owner))
    place = (CONFIG_MAPS, created["metadata"]["namespace"], "child")
    await kube.delete(*place, uid="00000000-0000-0000-0000-000000000000")
    assert await kube.get(*place) is not None
    await kube.delete(*place, uid=created["metadata"]["uid"])
    assert await kube.get(*place) is None
    await kube.delete(*place, uid=created["metadata"]["uid"])


async def test_a_status_is_replaced_as_a_whole_and_only_on_what_was_seen(kube: Kubernetes, owner: JsonObject) -> None:
    written = await kube.replace_status(TRAININGS, owner, {"phase": "Pending", "stagesSummary": "0/2"})
    await kube.replace_status(TRAININGS, written, {"phase": "Running"})
    found = await kube.get(TRAININGS, owner["metadata"]["namespace"], "run")
    assert found is not None
    assert found["status"]["phase"] == "Running"
    assert "0/2" not in str(found["status"])
    with pytest.raises(ConflictError):
        await kube.replace_status(TRAININGS, owner, {"phase": "Failed"})


async def test_labels_select(kube: Kubernetes, owner: JsonObject) -> None:
    for name, team in (("one", "a"), ("two", "b")):
        body = config_map(owner, name)
        body["metadata"]["labels"] = {"team": team, "kind": "test"}
        await kube.create(CONFIG_MAPS, body)
    found = await kube.list(CONFIG_MAPS, owner["metadata"]["namespace"], {"team": "b", "kind": "test"})
    assert [item["metadata"]["name"] for item in found] == ["two"]


async def test_the_same_event_is_posted_once(kube: Kubernetes, owner: JsonObject, cluster: Cluster) -> None:
    for note in ("first", "first", "second", "ü" * 5000):
        await kube.post_event(
            owner, severity=Severity.WARNING, reason="TrainerFailed", action="Reconcile", note=note,
            at=datetime.now(UTC),
        )  # fmt: skip
    notes = sorted(note for _, note in cluster.events())
    assert notes[:2] == ["first", "second"]
    assert len(notes) == 3
    assert 1000 < len(notes[2].encode()) <= 1024


async def test_what_the_schema_forbids_is_told_in_its_words(kube: Kubernetes, owner: JsonObject) -> None:
    body = config_map(owner)
    body["metadata"]["name"] = "Not A Name"
    with pytest.raises(InvalidObjectError, match="RFC 1123"):
        await kube.create(CONFIG_MAPS, body)


async def test_a_namespace_that_does_not_exist(kube: Kubernetes, owner: JsonObject) -> None:
    body = config_map(owner)
    body["metadata"]["namespace"] = "nowhere"
    with pytest.raises(NotFoundError, match="nowhere"):
        await kube.create(CONFIG_MAPS, body)


async def test_it_knows_which_kinds_are_installed(kube: Kubernetes) -> None:
    assert await kube.serves(PYTORCH_JOBS)
    assert not await kube.serves(PYTORCH_JOBS._replace(plural="mpijobs"))
    assert not await kube.serves(Resource("nobody.example", "v1", "things"))


async def test_tokens_are_reviewed(kube: Kubernetes, cluster: Cluster) -> None:
    identity = await kube.review_token(cluster.token("default", audiences=["internvl-operator"]), "internvl-operator")
    assert identity is not None
    assert (identity.namespace, identity.service_account, identity.pod_name) == (cluster.namespace, "default", "")
    assert await kube.review_token("nonsense", "internvl-operator") is None
    assert await kube.review_token(cluster.token("default", audiences=["other"]), "internvl-operator") is None


async def test_an_api_server_that_is_away_is_tried_again_and_then_told(
    kube: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube._client.configuration, "_base_path", "https://127.0.0.1:1")
    with pytest.raises(UnavailableError, match="no answer") as caught:
        await kube.get(CONFIG_MAPS, "default", "x")
    assert isinstance(caught.value, KubernetesError)

"""One pass: strictly in order, and up to the first action that fails."""

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from internvl_operator.adapters.gate import Gate
from internvl_operator.adapters.kube import (
    CONFIG_MAPS,
    JOBS,
    PYTORCH_JOBS,
    TRAININGS,
    JsonObject,
    Kubernetes,
    Resource,
)
from internvl_operator.adapters.kube_errors import (
    AccessDeniedError,
    ConflictError,
    InvalidObjectError,
    KubernetesError,
    UnavailableError,
)
from internvl_operator.adapters.metrics import Metrics
from internvl_operator.adapters.object_store import ObjectStores
from internvl_operator.adapters.progress import ProgressBoard
from internvl_operator.api.training import InternVLTraining
from internvl_operator.config import GateSettings, OperatorSettings
from internvl_operator.domain import indexing
from internvl_operator.domain.stages import expand
from internvl_operator.handlers.observe import Observer
from internvl_operator.handlers.reconcile import CONFLICT_SECONDS, Reconciler
from internvl_operator.handlers.runs import PassFailedError, RunKey
from internvl_operator.jobs.base import Platform
from internvl_operator.jobs.pytorchjob import PyTorchJob

pytestmark = pytest.mark.unit

KEY = RunKey("team", "run")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def training(**spec: Any) -> JsonObject:
    stage = {
        "name": "warmup", "trainable": ["projector"], "steps": 20, "globalBatch": 2, "optimizer": {"peakLr": "1e-3"},
    }  # fmt: skip
    return {
        "apiVersion": "training.internvl.dev/v1alpha1",
        "kind": "InternVLTraining",
        "metadata": {"name": "run", "namespace": "team", "uid": "uid-1", "generation": 1, "resourceVersion": "1"},
        "spec": {
            "model": "tiny-1b-like",
            "image": {"ref": "trainer:1"},
            "storage": {"uri": "s3://bucket/run"},
            "data": {"meta": "s3://data/meta.json", "tokenizer": "s3://data/tokenizer"},
            "stages": [stage],
            **spec,
        },
    }


def ready(**spec: Any) -> JsonObject:
    """The same once its data is indexed."""
    body = training(**spec)
    (stage,) = expand(InternVLTraining.model_validate(body).spec).stages
    record = {"job": indexing.job_name("run", stage), "state": "Indexed"}
    return body | {"status": {"stages": [{"name": "warmup", "dataIndex": record}]}}


class Api(Kubernetes):
    """An API server of a few dicts. `faults` are raised by the next call of that name; `calls` tells the order."""

    def __init__(self, body: JsonObject | None) -> None:
        self.objects: dict[tuple[str, str], JsonObject] = {}
        if body is not None:
            self.objects[TRAININGS.plural, body["metadata"]["name"]] = body
        self.calls: list[str] = []
        self.events: list[str] = []
        self.faults: dict[str, KubernetesError] = {}

    async def get(self, resource: Resource, namespace: str | None, name: str) -> JsonObject | None:
        return copy.deepcopy(self.objects.get((resource.plural, name)))

    async def list(self, resource: Resource, namespace: str | None, labels: Any = None) -> list[JsonObject]:
        return [copy.deepcopy(body) for (plural, _), body in self.objects.items() if plural == resource.plural]

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        self._call(f"create {resource.plural}")
        stamped = copy.deepcopy(body)
        stamped["metadata"] |= {
            "uid": f"uid-of-{body['metadata']['name']}",
            "creationTimestamp": "2026-01-01T12:00:00Z",
        }
        self.objects[resource.plural, body["metadata"]["name"]] = stamped
        return stamped

    async def replace_status(self, resource: Resource, seen: JsonObject, status: JsonObject) -> JsonObject:
        self._call("status")
        self.objects[resource.plural, seen["metadata"]["name"]]["status"] = status
        return seen

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str | None = None) -> None:
        self._call(f"delete {resource.plural}")
        del self.objects[resource.plural, name]

    async def post_event(self, regarding: JsonObject, *, reason: str, **_: Any) -> None:
        self._call("event")
        self.events.append(reason)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.faults:
            raise self.faults[name]

    def condition(self, kind: str) -> JsonObject:
        conditions = self.objects[TRAININGS.plural, "run"]["status"]["conditions"]
        return next(condition for condition in conditions if condition["type"] == kind)


def reconciler(api: Api) -> Reconciler:
    settings, metrics, kind = OperatorSettings(), Metrics(), PyTorchJob()
    board = ProgressBoard(lambda _: None)
    gate = Gate(ObjectStores(GateSettings()), full_digest_bytes=0)
    observer = Observer(api, gate, kind, board)
    return Reconciler(settings, api, observer, kind, Platform(), board, metrics, lambda: NOON)


def fault(kind: type[KubernetesError], code: int) -> KubernetesError:
    return kind("POST pytorchjobs", code, "Because", "quota: gpus=8, used 8")


async def test_what_is_about_to_be_done_is_on_record_first() -> None:
    api = Api(ready())
    await reconciler(api).reconcile(KEY)
    assert [call for call in api.calls if call != "event"] == ["status", "create configmaps", "create pytorchjobs"]
    (stage,) = api.objects[TRAININGS.plural, "run"]["status"]["stages"]
    assert stage["attempt"] == 1


async def test_after_a_conflict_nothing_is_done_and_soon_looked_again() -> None:
    api = Api(training())
    api.faults["status"] = fault(ConflictError, 409)
    outcome = await reconciler(api).reconcile(KEY)
    assert api.calls == ["status"]
    assert outcome.after_seconds == CONFLICT_SECONDS


async def test_without_its_config_no_job_is_created() -> None:
    api = Api(ready())
    api.faults["create configmaps"] = fault(UnavailableError, 503)
    with pytest.raises(UnavailableError):
        await reconciler(api).reconcile(KEY)
    assert (PYTORCH_JOBS.plural, "run-warmup-a1") not in api.objects


@pytest.mark.parametrize(("kind", "code"), [(AccessDeniedError, 403), (InvalidObjectError, 422)])
async def test_a_refused_job_is_told_in_the_servers_words_and_tried_again(
    kind: type[KubernetesError], code: int
) -> None:
    api = Api(ready())
    api.faults["create pytorchjobs"] = fault(kind, code)
    passes = reconciler(api)
    for _ in range(2):
        with pytest.raises(kind):
            await passes.reconcile(KEY)
    assert api.condition("Progressing")["reason"] == "JobRejected"
    assert "quota: gpus=8" in api.condition("Progressing")["message"]
    assert ("StageStarting" in api.events, api.events.count("JobRejected")) == (True, 1)
    api.faults.clear()
    await passes.reconcile(KEY)
    await passes.reconcile(KEY)
    assert api.condition("Progressing")["reason"] == "StageStarting"


async def test_an_api_server_that_is_away_is_no_refusal() -> None:
    api = Api(ready())
    api.faults["create pytorchjobs"] = fault(UnavailableError, 503)
    passes = reconciler(api)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await passes.reconcile(KEY)
    assert api.condition("Progressing")["reason"] == "StageStarting"


async def test_an_overlay_that_cannot_be_laid_is_told_like_a_refusal() -> None:
    api = Api(training(podTemplate={"spec": {"volumes": [{"emptyDir": {}}]}}))
    passes = reconciler(api)
    for _ in range(2):
        with pytest.raises(PassFailedError, match="volumes"):
            await passes.reconcile(KEY)
    assert api.condition("Progressing")["reason"] == "JobRejected"
    assert (CONFIG_MAPS.plural, "run-warmup-a1") not in api.objects


async def test_first_of_all_the_data_is_indexed() -> None:
    api = Api(training())
    passes = reconciler(api)
    await passes.reconcile(KEY)
    assert [call for call in api.calls if call != "event"] == ["status", "create configmaps", "create jobs"]
    (name,) = [name for plural, name in api.objects if plural == JOBS.plural]
    assert api.condition("Progressing")["reason"] == "IndexingData"
    api.objects[JOBS.plural, name]["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    await passes.reconcile(KEY)
    assert (PYTORCH_JOBS.plural, "run-warmup-a1") in api.objects


async def test_a_refused_index_job_is_told_in_the_servers_words_and_tried_again() -> None:
    api = Api(training())
    api.faults["create jobs"] = fault(AccessDeniedError, 403)
    passes = reconciler(api)
    for _ in range(2):
        with pytest.raises(AccessDeniedError):
            await passes.reconcile(KEY)
    assert api.condition("Progressing")["reason"] == "JobRejected"
    assert "quota: gpus=8" in api.condition("Progressing")["message"]
    api.faults.clear()
    await passes.reconcile(KEY)
    await passes.reconcile(KEY)
    assert api.condition("Progressing")["reason"] == "IndexingData"


async def test_suspending_a_run_deletes_the_job_that_indexes_its_data() -> None:
    api = Api(training())
    passes = reconciler(api)
    await passes.reconcile(KEY)
    api.objects[TRAININGS.plural, "run"]["spec"]["suspend"] = True
    await passes.reconcile(KEY)
    assert "delete jobs" in api.calls
    assert not [name for plural, name in api.objects if plural == JOBS.plural]


async def test_an_event_that_cannot_be_posted_is_no_reason_to_stop() -> None:
    api = Api(ready())
    api.faults["event"] = fault(AccessDeniedError, 403)
    await reconciler(api).reconcile(KEY)
    assert (PYTORCH_JOBS.plural, "run-warmup-a1") in api.objects


async def test_where_all_is_as_it_should_be_nothing_is_written() -> None:
    api = Api(ready())
    passes = reconciler(api)
    for _ in range(2):
        await passes.reconcile(KEY)
    api.calls.clear()
    await passes.reconcile(KEY)
    assert api.calls == []


async def test_a_spec_that_cannot_be_read_is_refused_with_the_field() -> None:
    api = Api(training(stages="none", flavour="vanilla"))
    await reconciler(api).reconcile(KEY)
    accepted = api.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert "spec.stages" in accepted["message"]
    assert "spec.flavour" in accepted["message"]
    api.calls.clear()
    await reconciler(api).reconcile(KEY)
    assert api.calls == []


async def test_a_status_of_a_later_version_ends_the_pass() -> None:
    body = training()
    body["status"] = {"stages": [{"name": "warmup", "state": "Levitating"}]}
    with pytest.raises(PassFailedError, match=r"stages\.0\.state"):
        await reconciler(Api(body)).reconcile(KEY)


async def test_a_child_whose_labels_somebody_removed_ends_the_pass() -> None:
    api = Api(ready())
    passes = reconciler(api)
    await passes.reconcile(KEY)
    del api.objects[PYTORCH_JOBS.plural, "run-warmup-a1"]["metadata"]["labels"]["training.internvl.dev/stage"]
    with pytest.raises(PassFailedError, match="restore the label or delete"):
        await passes.reconcile(KEY)


async def test_a_run_that_is_gone_is_followed_no_more() -> None:
    outcome = await reconciler(Api(None)).reconcile(KEY)
    assert outcome.gone


async def test_a_run_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    body = training()
    body["metadata"]["deletionTimestamp"] = "2026-01-01T11:59:59Z"
    api = Api(body)
    await reconciler(api).reconcile(KEY)
    assert api.calls == []


async def test_a_run_that_has_ended_is_idle() -> None:
    body = training()
    condition = {
        "type": "Succeeded", "status": "True", "reason": "AllStagesDone", "message": "",
        "lastTransitionTime": "2026-01-01T11:00:00Z", "observedGeneration": 1,
    }  # fmt: skip
    body["status"] = {"observedGeneration": 1, "phase": "Succeeded", "conditions": [condition]}
    outcome = await reconciler(Api(body)).reconcile(KEY)
    assert outcome.idle
    assert outcome.after_seconds is None

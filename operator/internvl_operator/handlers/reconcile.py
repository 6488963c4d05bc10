"""One pass over one run: observe, plan, apply. Everything between the reads and the writes is `domain.plan`."""

import logging
from collections.abc import Sequence

from pydantic import ValidationError

from internvl_operator.adapters.clock import Clock
from internvl_operator.adapters.kube import (
    CONFIG_MAPS,
    JOBS,
    PYTORCH_JOBS,
    TRAININGS,
    JsonObject,
    Kubernetes,
    Resource,
    Severity,
)
from internvl_operator.adapters.kube_errors import ConflictError, KubernetesError, UnavailableError
from internvl_operator.adapters.metrics import Metrics
from internvl_operator.adapters.progress import ProgressBoard
from internvl_operator.api.status import TrainingStatus
from internvl_operator.api.training import InternVLTraining, ObjectMeta
from internvl_operator.config import OperatorSettings
from internvl_operator.domain.actions import (
    Action,
    CreateIndexJob,
    CreateJob,
    DeleteIndexJob,
    DeleteJob,
    PostEvent,
    Requeue,
    UpdateStatus,
)
from internvl_operator.domain.plan import plan, refuse
from internvl_operator.domain.problems import SpecProblem
from internvl_operator.domain.state import Observed
from internvl_operator.handlers.observe import Observer
from internvl_operator.handlers.runs import Outcome, PassFailedError, RunKey
from internvl_operator.jobs import index_job
from internvl_operator.jobs.base import JobKind, MalformedChildError, Platform
from internvl_operator.jobs.overlay import OverlayError
from internvl_trainer.contract.base import RunIdentity

logger = logging.getLogger(__name__)

CONFLICT_SECONDS = 0.5
"""How soon to look again after somebody else changed the object that a decision was made on."""

RESOURCES: dict[str, Resource] = {"ConfigMap": CONFIG_MAPS, "PyTorchJob": PYTORCH_JOBS, "Job": JOBS}
"""Where the children's kinds lie in the API."""


class Reconciler:
    """Makes passes. Between two of them it remembers nothing that a restart would miss."""

    def __init__(
        self,
        settings: OperatorSettings,
        kube: Kubernetes,
        observer: Observer,
        job_kind: JobKind,
        platform: Platform,
        board: ProgressBoard,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._kube = kube
        self._observer = observer
        self._job_kind = job_kind
        self._platform = platform
        self._board = board
        self._metrics = metrics
        self._clock = clock
        self._rejections: dict[str, str] = {}
        self._known: dict[RunKey, str] = {}

    async def reconcile(self, key: RunKey) -> Outcome:
        """One pass.

        Raises:
            KubernetesError: the API server did not answer, or refused what the pass cannot do without.
            PassFailedError: something else is wrong with the run's objects; the message says what.
        """
        body = await self._kube.get(TRAININGS, key.namespace, key.name)
        self._forget_older(key, body["metadata"]["uid"] if body else None)
        if body is None:
            return Outcome(gone=True)
        metadata, status = ObjectMeta.model_validate(body["metadata"]), _status(body)
        self._known[key] = metadata.uid
        try:
            training = InternVLTraining.model_validate(body)
        except ValidationError as error:
            problems = [SpecProblem(_place(fault["loc"]), fault["msg"]) for fault in error.errors(include_input=False)]
            seen = Observed(_identity(metadata), metadata.generation, status)
            return await self._apply(body, status, refuse(problems, seen, self._clock()))
        return await self._advance(body, training)

    async def _advance(self, body: JsonObject, training: InternVLTraining) -> Outcome:
        uid = training.metadata.uid
        self._board.follow(training.identity)
        try:
            seen = await self._observer.observe(training, rejection=self._rejections.get(uid))
        except MalformedChildError as error:
            raise PassFailedError(str(error)) from error
        actions = plan(
            training.spec,
            seen.observed,
            self._clock(),
            default_image=self._settings.trainer.image,
            progress_seconds=self._settings.reconcile.progress_seconds,
        )
        outcome = await self._apply(body, training.status, actions)
        idle = training.status.is_finished and not actions
        return outcome._replace(follows=seen.follows, idle=idle)

    async def _apply(self, body: JsonObject, recorded: TrainingStatus, actions: Sequence[Action]) -> Outcome:
        """Apply strictly in order, up to the first action that fails."""
        for action in actions:
            match action:
                case UpdateStatus(status=status):
                    if not await self._write_status(body, recorded, status):
                        return Outcome(after_seconds=CONFLICT_SECONDS)
                case CreateJob() | CreateIndexJob():
                    await self._create(action)
                case DeleteJob() | DeleteIndexJob():
                    jobs = PYTORCH_JOBS if isinstance(action, DeleteJob) else JOBS
                    await self._kube.delete(jobs, body["metadata"]["namespace"], action.name, uid=action.uid)
                    logger.info("job %s deleted", action.name, extra=_fields(body))
                case PostEvent():
                    await self._post(body, action)
                case Requeue(after_seconds=seconds):
                    return Outcome(after_seconds=seconds)
            self._metrics.actions.labels(type(action).__name__).inc()
        return Outcome()

    async def _write_status(self, body: JsonObject, recorded: TrainingStatus, status: TrainingStatus) -> bool:
        """Whether the status was written; False where somebody else was faster."""
        try:
            await self._kube.replace_status(TRAININGS, body, status.to_dict())
        except ConflictError:
            return False
        metadata = body["metadata"]
        self._metrics.record_status(metadata["namespace"], metadata["name"], recorded, status)
        for stage in status.stages:
            if stage.state is not recorded.stage(stage.name).state:
                logger.info("stage %s attempt %d: %s", stage.name, stage.attempt, stage.state, extra=_fields(body))
        return True

    async def _create(self, action: CreateJob | CreateIndexJob) -> None:
        uid = action.run.uid
        try:
            for child in self._build(action):
                await self._kube.create(RESOURCES[child["kind"]], child)
        except UnavailableError:
            raise
        except KubernetesError as error:
            # Told in the run's status by the next pass; quota, admission or a person may let it through later.
            self._rejections[uid] = str(error)
            raise
        except OverlayError as error:
            self._rejections[uid] = str(error)
            raise PassFailedError(str(error)) from error
        self._rejections.pop(uid, None)
        run = action.run
        logger.info("job %s created", action.name, extra={"run": f"{run.namespace}/{run.name}", "uid": uid})

    def _build(self, action: CreateJob | CreateIndexJob) -> tuple[JsonObject, ...]:
        if isinstance(action, CreateJob):
            return self._job_kind.build(action, self._platform)
        return index_job.build(action, self._platform)

    async def _post(self, body: JsonObject, event: PostEvent) -> None:
        severity = Severity.WARNING if event.warning else Severity.NORMAL
        try:
            await self._kube.post_event(
                body, severity=severity, reason=event.reason, action="Reconcile", note=event.message, at=self._clock()
            )
        except KubernetesError as error:
            logger.warning("event %s could not be posted: %s", event.reason, error)

    def _forget_older(self, key: RunKey, uid: str | None) -> None:
        """Drop what is remembered of a run whose name is free, or somebody else's, now."""
        known = self._known.get(key)
        if known is None or known == uid:
            return
        del self._known[key]
        self._board.forget(known)
        self._rejections.pop(known, None)
        self._metrics.forget(key.namespace, key.name)


def _fields(body: JsonObject) -> dict[str, str]:
    metadata = body["metadata"]
    return {"run": f"{metadata['namespace']}/{metadata['name']}", "uid": metadata["uid"]}


def _identity(metadata: ObjectMeta) -> RunIdentity:
    return RunIdentity(uid=metadata.uid, namespace=metadata.namespace, name=metadata.name)


def _status(body: JsonObject) -> TrainingStatus:
    try:
        return TrainingStatus.model_validate(body.get("status") or {})
    except ValidationError as error:
        faults = [f"{_place(fault['loc'])}: {fault['msg']}" for fault in error.errors(include_input=False)]
        raise PassFailedError(f"its status was not written by this operator or by an older one: {faults}") from None


def _place(location: Sequence[int | str]) -> str:
    return ".".join(map(str, location)) or "the object"

"""Reads what one pass decides by, in the order that `domain.state` asks for: the run, its children, the stores."""

from typing import NamedTuple

from pydantic import ValidationError

from internvl_operator.adapters.gate import Gate
from internvl_operator.adapters.kube import JOBS, PODS, PYTORCH_JOBS, TRAININGS, Kubernetes
from internvl_operator.adapters.kube_errors import KubernetesError
from internvl_operator.adapters.object_store import StoreAddress
from internvl_operator.adapters.progress import ProgressBoard
from internvl_operator.api import labels
from internvl_operator.api.reasons import Reason
from internvl_operator.api.training import InternVLTraining
from internvl_operator.domain import queries, vision
from internvl_operator.domain.state import (
    GateQuery,
    GateResult,
    Observed,
    RunSource,
    SourceQuery,
    SourceReady,
    SourceResult,
    Unavailable,
)
from internvl_operator.handlers.runs import RunKey
from internvl_operator.handlers.storage import store_address
from internvl_operator.jobs import index_job
from internvl_operator.jobs.base import JobKind
from internvl_operator.jobs.pods import observe_pods


class Seen(NamedTuple):
    """What a pass has read, and which other runs it depends on."""

    observed: Observed
    follows: frozenset[RunKey]


class Observer:
    """Puts together the facts about one run."""

    def __init__(self, kube: Kubernetes, gate: Gate, job_kind: JobKind, board: ProgressBoard) -> None:
        self._kube = kube
        self._gate = gate
        self._job_kind = job_kind
        self._board = board

    async def observe(self, training: InternVLTraining, *, rejection: str | None) -> Seen:
        """Look at everything that concerns a run, which the caller has just read.

        Args:
            rejection: why the API server refused the run's last job, None once one was accepted.

        Raises:
            KubernetesError: the children cannot be listed.
            MalformedChildError: a child lacks the labels that say which attempt it runs.
        """
        run, status = training.identity, training.status
        mine = {labels.RUN_UID: run.uid}
        # Pods after jobs: of a job that is seen to be over, no pod can be missed.
        jobs = tuple(self._job_kind.observe(body) for body in await self._kube.list(PYTORCH_JOBS, run.namespace, mine))
        index_jobs = tuple(index_job.observe(body) for body in await self._kube.list(JOBS, run.namespace, mine))
        pods = observe_pods(await self._kube.list(PODS, run.namespace, mine))
        gates = queries.gate_queries(training.spec, run, status, jobs)
        sources = queries.source_queries(training.spec, status)
        address: StoreAddress | Unavailable = StoreAddress()
        if gates or sources:
            address = await store_address(self._kube, run.namespace, training.spec.storage)
        observed = Observed(
            run=run,
            generation=training.metadata.generation,
            status=status,
            jobs=jobs,
            live_pods=pods.live,
            pod_failures=pods.failures,
            index_jobs=index_jobs,
            live_index_pods=pods.live_index,
            index_failures=pods.index_failures,
            gates={query.key: await self._checkpoint(address, query) for query in gates},
            sources={query.component: await self._source(address, training, query) for query in sources},
            progress=self._board.reports(run.uid),
            rejection=rejection,
            deleting=training.metadata.deletion_timestamp is not None,
        )
        named = (query.source for query in sources)
        return Seen(
            observed,
            frozenset(RunKey(run.namespace, source.run) for source in named if isinstance(source, RunSource)),
        )

    async def _checkpoint(self, address: StoreAddress | Unavailable, query: GateQuery) -> GateResult:
        if isinstance(address, Unavailable):
            return address
        return await self._gate.final_checkpoint(address, query)

    async def _source(
        self, address: StoreAddress | Unavailable, training: InternVLTraining, query: SourceQuery
    ) -> SourceResult:
        if isinstance(address, Unavailable):
            return address
        if isinstance(query.source, RunSource):
            return await self._offered(address, training, query, query.source)
        return await self._gate.source(
            address, query.component, query.source.uri,
            waiting=Reason.WAITING_FOR_WEIGHTS, invalid=Reason.WEIGHTS_INVALID,
        )  # fmt: skip

    async def _offered(
        self, address: StoreAddress, training: InternVLTraining, query: SourceQuery, source: RunSource
    ) -> SourceResult:
        namespace = training.metadata.namespace
        try:
            body = await self._kube.get(TRAININGS, namespace, source.run)
            other = InternVLTraining.model_validate(body) if body else None
        except KubernetesError as error:
            return Unavailable(f"InternVLTraining {namespace}/{source.run} cannot be read: {error}")
        except ValidationError:
            return Unavailable(f"InternVLTraining {namespace}/{source.run} has a spec that this operator cannot read")
        offer = vision.judge_source(source, run=training.identity, model=training.spec.model, other=other)
        if not isinstance(offer, SourceReady):
            return offer
        return await self._gate.source(
            address, query.component, offer.ref.uri,
            waiting=Reason.WAITING_FOR_VISION, invalid=Reason.VISION_SOURCE_INVALID, sha256=offer.ref.sha256,
        )  # fmt: skip

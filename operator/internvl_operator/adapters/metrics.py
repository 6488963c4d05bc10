"""What Prometheus can ask for. Names are part of the operator's interface: dashboards and alerts hang on them."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from internvl_operator.api.status import TrainingStatus


class Metrics:
    """All metrics of one operator process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.passes = Counter(
            "internvl_operator_passes", "Passes of the reconcile loop, by how they ended", ["outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.pass_seconds = Histogram(
            "internvl_operator_pass_seconds", "Duration of a pass", registry=self.registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        )  # fmt: skip
        self.actions = Counter(
            "internvl_operator_actions", "Actions applied, by kind", ["action"], registry=self.registry
        )
        self.transitions = Counter(
            "internvl_operator_stage_transitions", "Stages that entered a state", ["state"], registry=self.registry
        )
        self.reports = Counter(
            "internvl_operator_progress_reports", "Progress reports received, by HTTP status", ["code"],
            registry=self.registry,
        )  # fmt: skip
        self.runs = Gauge("internvl_operator_runs", "InternVLTrainings followed", registry=self.registry)
        labels = ["namespace", "name"]
        self.step = Gauge(
            "internvl_training_step", "Finished steps of the current stage", labels, registry=self.registry
        )
        self.loss = Gauge("internvl_training_loss", "Last reported loss", labels, registry=self.registry)
        self.tokens = Gauge("internvl_training_tokens_per_second", "Of the whole job", labels, registry=self.registry)

    def render(self) -> bytes:
        """The exposition text that /metrics answers with."""
        return generate_latest(self.registry)

    def record_status(self, namespace: str, name: str, before: TrainingStatus, after: TrainingStatus) -> None:
        """Count the stage transitions between two statuses, and show the newest progress."""
        for stage in after.stages:
            if stage.state is not before.stage(stage.name).state:
                self.transitions.labels(stage.state).inc()
        progress = after.progress
        if progress is None:
            return
        self.step.labels(namespace, name).set(progress.step)
        if progress.loss is not None:
            self.loss.labels(namespace, name).set(float(progress.loss))
        if progress.tokens_per_second is not None:
            self.tokens.labels(namespace, name).set(progress.tokens_per_second)

    def forget(self, namespace: str, name: str) -> None:
        """Drop the series of a run that is gone, or they would be scraped for ever."""
        for gauge in (self.step, self.loss, self.tokens):
            if (namespace, name) in gauge._metrics:
                gauge.remove(namespace, name)

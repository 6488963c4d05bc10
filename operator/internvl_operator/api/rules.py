"""What the API server itself checks beyond types and bounds: CEL rules, so that a mistake fails at `kubectl apply`.

Each rule names the field at fault, as path and in its message. The operator checks the same again when it expands the
stages (`domain.stages`), since an older CRD may have let a spec pass.
"""

from typing import NamedTuple

from internvl_operator.api.spec import TrainingSpec
from internvl_trainer.contract import catalog
from internvl_trainer.contract.job import DataConfig


class Rule(NamedTuple):
    """One entry of x-kubernetes-validations."""

    at: str
    """Path of the schema node it is attached to: "" for the object, spec, spec.vision.from."""
    rule: str
    message: str
    field: str = ""
    """Path from the node to the field that a client should point at; empty: the node itself."""


CHANGEABLE = frozenset({"suspend", "runPolicy", "podTemplate"})
"""Fields of the spec that may change after the first stage has begun. podTemplate holds for attempts yet to come."""


def all_rules() -> tuple[Rule, ...]:
    """Every rule of the CRD."""
    return (*_names(), *_immutable(), *_grid(), *_stage_grid(), *_data(), *_inputs(), *_storage(), *_retention())


def _names() -> tuple[Rule, ...]:
    return (
        Rule(
            "",
            "self.metadata.name.size() <= 30 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name: at most 30 characters, lower-case letters, digits and dashes, beginning with a letter: "
            "names of jobs, pods and services are made of it",
        ),
        Rule(
            "",
            "!has(self.spec.vision) || !has(self.spec.vision.from.trainingRef) "
            "|| self.spec.vision.from.trainingRef.name != self.metadata.name",
            "spec.vision.from.trainingRef.name: a run cannot wait for its own vision encoder",
            ".spec.vision.from.trainingRef.name",
        ),
    )


def _immutable() -> tuple[Rule, ...]:
    begun = (
        "has(oldSelf.status) && has(oldSelf.status.stages) "
        "&& oldSelf.status.stages.exists(s, has(s.attempt) && s.attempt > 0)"
    )
    fields = [field.alias or name for name, field in TrainingSpec.model_fields.items()]
    return tuple(
        Rule(
            "",
            f"!({begun}) || (has(self.spec.{field}) == has(oldSelf.spec.{field}) "
            f"&& (!has(self.spec.{field}) || self.spec.{field} == oldSelf.spec.{field}))",
            f"spec.{field}: fixed once the first stage has begun (only suspend, runPolicy and podTemplate may change); "
            "apply a new InternVLTraining instead",
            f".spec.{field}",
        )
        for field in fields
        if field not in CHANGEABLE
    )


def _grid() -> tuple[Rule, ...]:
    grid = "(self.parallelism.tensor * self.parallelism.pipeline)"
    world = "(self.resources.nodes * self.resources.processesPerNode)"
    return (
        Rule(
            "spec",
            f"{world} % {grid} == 0",
            "spec.parallelism.tensor: tensor * pipeline must divide resources.nodes * resources.processesPerNode",
            ".parallelism.tensor",
        ),
        Rule(
            "spec",
            f"self.parallelism.data == 0 || self.parallelism.data * {grid} == {world}",
            "spec.parallelism.data: tensor * pipeline * data must be resources.nodes * resources.processesPerNode; "
            "0 derives it",
            ".parallelism.data",
        ),
        Rule(
            "spec",
            f"{_catalogue('heads')}[self.model] % self.parallelism.tensor == 0",
            "spec.parallelism.tensor: must divide the heads of the model's language part",
            ".parallelism.tensor",
        ),
        Rule(
            "spec",
            f"self.parallelism.pipeline <= {_catalogue('layers')}[self.model]",
            "spec.parallelism.pipeline: must not be more than the layers of the model's language part",
            ".parallelism.pipeline",
        ),
    )


def _stage_grid() -> tuple[Rule, ...]:
    """The same for stages with sizes of their own. A rule's path cannot hold a list's index, and a message that names
    the stage is beyond the cost budget; `internvl plan` names it."""
    nodes, processes = (
        f"(has(s.resources) && has(s.resources.{name}) ? s.resources.{name} : self.resources.{name})"
        for name in ("nodes", "processesPerNode")
    )
    tensor, pipeline, data = (
        f"(has(s.parallelism) ? s.parallelism.{name} : self.parallelism.{name})"
        for name in ("tensor", "pipeline", "data")
    )
    world, grid = f"({nodes} * {processes})", f"({tensor} * {pipeline})"
    return (
        _for_stages(
            f"{world} % {grid} == 0",
            "parallelism.tensor",
            "tensor * pipeline must divide the stage's nodes * processesPerNode",
            only_if="has(s.parallelism) || has(s.resources)",
        ),
        _for_stages(
            f"({data} == 0 || {data} * {grid} == {world})",
            "parallelism.data",
            "tensor * pipeline * data must be the stage's nodes * processesPerNode; 0 derives it",
            only_if="has(s.parallelism) || has(s.resources)",
        ),
        _for_stages(
            f"{_catalogue('heads')}[self.model] % s.parallelism.tensor == 0",
            "parallelism.tensor",
            "must divide the heads of the model's language part",
            only_if="has(s.parallelism)",
        ),
        _for_stages(
            f"s.parallelism.pipeline <= {_catalogue('layers')}[self.model]",
            "parallelism.pipeline",
            "must not be more than the layers of the model's language part",
            only_if="has(s.parallelism)",
        ),
        _for_stages(
            f"{world} % {grid} != 0 || s.globalBatch % ({world} / {grid}) == 0",
            "globalBatch",
            "must be a multiple of the data-parallel replicas, nodes * processesPerNode / (tensor * pipeline)",
        ),
    )


def _for_stages(right: str, field: str, problem: str, only_if: str = "") -> Rule:
    condition = f"!({only_if}) || {right}" if only_if else right
    return Rule("spec", f"self.stages.all(s, {condition})", f"spec.stages[].{field}: {problem}", ".stages")


def _data() -> tuple[Rule, ...]:
    """What no place may give twice, and what either place must give. A stage that gives meta or mixture drops the
    other of spec.data, so this makes it exactly one."""
    one = "give one of meta and mixture"
    least, most = (
        f"(has(s.data.{name}) ? s.data.{name} : (has(self.data.{name}) ? self.data.{name} : {default}))"
        for name, default in (
            ("minFrames", DataConfig.model_fields["min_frames"].default),
            ("maxFrames", DataConfig.model_fields["max_frames"].default),
        )
    )
    return (
        Rule("spec", "!has(self.data.meta) || !has(self.data.mixture)", f"spec.data.mixture: {one}", ".data.mixture"),
        _for_stages("!has(s.data.meta) || !has(s.data.mixture)", "data.mixture", one),
        _for_stages(
            "has(s.data.meta) || has(s.data.mixture) || has(self.data.meta) || has(self.data.mixture)",
            "data.meta",
            "must be set, or data.mixture, for the stage or for all in spec.data",
        ),
        _for_stages(
            "has(s.data.tokenizer) || has(self.data.tokenizer)",
            "data.tokenizer",
            "must be set, for the stage or for all as spec.data.tokenizer",
        ),
        _for_stages(f"{least} <= {most}", "data.minFrames", "must not be more than maxFrames"),
    )


def _inputs() -> tuple[Rule, ...]:
    return (
        Rule(
            "spec",
            "!has(self.vision) || !has(self.weights.vision)",
            "spec.weights.vision: spec.vision.from says already where it comes from; give one of the two",
            ".weights.vision",
        ),
        Rule(
            "spec.vision.from",
            "has(self.trainingRef) != has(self.uri)",
            "spec.vision.from: give exactly one of trainingRef and uri",
        ),
    )


def _storage() -> tuple[Rule, ...]:
    return (
        Rule(
            "spec.storage",
            "!has(self.caConfigMap) || !has(self.endpointUrl) || self.endpointUrl.startsWith('https://')",
            "spec.storage.caConfigMap: endpointUrl is no https:// URL, so there is no certificate to verify",
            ".caConfigMap",
        ),
    )


def _retention() -> tuple[Rule, ...]:
    kept = "s.checkpoint.keepEvery"
    return (
        _for_stages(
            "has(s.checkpoint.keepLast)",
            "checkpoint.keepEvery",
            "needs keepLast, without which all checkpoints are kept",
            only_if=f"has({kept})",
        ),
        _for_stages(
            f"{kept} % s.checkpoint.everySteps == 0",
            "checkpoint.keepEvery",
            "must be a multiple of everySteps: no other step is saved",
            only_if=f"has({kept})",
        ),
        _for_stages(
            f"{kept} <= s.steps",
            "checkpoint.keepEvery",
            "must not be more than the stage's steps: none would be kept",
            only_if=f"has({kept})",
        ),
    )


def _catalogue(fact: str) -> str:
    facts = (f"'{name}': {getattr(model.language, fact)}" for name, model in catalog.MODELS.items())
    return "{" + ", ".join(facts) + "}"

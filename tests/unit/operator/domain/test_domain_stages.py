"""Expansion: defaults are filled in, a stage's own values win, and every mistake is told with the field's name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_operator.api.reasons import Reason
from internvl_operator.api.spec import TrainingSpec
from internvl_operator.domain import job_config
from internvl_operator.domain.stages import Expansion, expand
from internvl_operator.domain.state import AttemptKey
from internvl_trainer.contract.job import PartitionConfig
from internvl_trainer.contract.retention import Retention
from tests.property.world import World, training_spec

pytestmark = pytest.mark.unit


def spec_with_stage(**changes: Any) -> TrainingSpec:
    """A spec of one stage, with the stage's fields changed."""
    stage = training_spec(1).stages[0].to_dict()
    return training_spec(1, stages=[{**stage, **changes}])


def fields(expansion: Expansion) -> list[str]:
    return [problem.field for problem in expansion.problems]


def test_a_stage_takes_from_the_spec_what_it_does_not_say() -> None:
    (stage,) = expand(training_spec(1)).stages

    assert stage.layout.model_dump() == {"tensor": 2, "pipeline": 2, "data": 1}
    assert (stage.nodes, stage.processes_per_node) == (2, 2)
    assert (stage.data.meta, stage.data.max_tiles, stage.data.pack_tokens) == ("s3://data/meta.json", 12, 16384)
    assert (stage.optimization.peak_lr, stage.optimization.weight_decay) == (1e-3, 0.05)
    assert stage.image.ref == "trainer:test"


def test_its_own_values_win_one_by_one_in_data_and_as_a_whole_in_parallelism() -> None:
    own = {"data": {"packTokens": 512}, "parallelism": {"tensor": 2}, "resources": {"nodes": 4}}
    expansion = expand(spec_with_stage(**own, globalBatch=8, dropPath="0.1", precision="fp32"))

    assert expansion.problems == ()
    (stage,) = expansion.stages
    assert (stage.data.pack_tokens, stage.data.meta) == (512, "s3://data/meta.json")
    assert stage.layout.model_dump() == {"tensor": 2, "pipeline": 1, "data": 4}
    assert (stage.nodes, stage.processes_per_node) == (4, 2)
    assert (stage.optimization.drop_path, stage.optimization.precision) == (0.1, "fp32")


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        (
            {"parallelism": {"tensor": 2, "pipeline": 4}},
            "spec.parallelism.tensor",
            "tensor 2 * pipeline 4 = 8 does not divide nodes 2 * processesPerNode 2 = 4",
        ),
        ({"parallelism": {"tensor": 2, "data": 4}}, "spec.parallelism.data", "is 4, but 4 processes"),
        ({"parallelism": {"tensor": 4}, "model": "InternVL2_5-1B"}, "spec.parallelism.tensor", "14 attention heads"),
        (
            {"parallelism": {"pipeline": 4}, "resources": {"nodes": 4}},
            "spec.parallelism.pipeline",
            "the 2 layers of the language model",
        ),
        (
            {"parallelism": {"pipeline": 2, "pipelineLayers": [2, 1]}},
            "spec.parallelism.pipelineLayers",
            "[2, 1] has the sum 3, but the language model has 2 layers",
        ),
        ({"data": {"meta": "s3://data/meta.json"}}, "spec.stages[stage0].data.tokenizer", "neither for the stage nor"),
        ({"image": {}}, "spec.image.ref", "no default trainer image"),
    ],
)
def test_what_is_wrong_is_told_with_the_name_of_the_field(changes: dict[str, Any], field: str, words: str) -> None:
    expansion = expand(training_spec(1, **changes))

    problem = next(problem for problem in expansion.problems if problem.field == field)
    assert words in problem.problem
    expected = Reason.INVALID_PARALLELISM if "parallelism" in field else Reason.INVALID_SPEC
    assert problem.reason is expected


def test_a_stage_with_sizes_of_its_own_is_named_in_the_field() -> None:
    sizes = {"parallelism": {"tensor": 2, "pipeline": 2}, "resources": {"nodes": 1, "processesPerNode": 3}}
    assert fields(expand(spec_with_stage(**sizes))) == ["spec.stages[stage0].parallelism.tensor"]


def test_a_batch_that_the_replicas_cannot_share_is_told_with_the_multiple_to_use() -> None:
    spec = spec_with_stage(parallelism={"tensor": 1}, globalBatch=6)

    (problem,) = expand(spec).problems

    assert problem.field == "spec.stages[stage0].globalBatch"
    assert "use a multiple of 4" in problem.problem


def test_two_stages_of_one_name_are_refused() -> None:
    stage = training_spec(1).stages[0].to_dict()

    assert fields(expand(training_spec(1, stages=[stage, stage]))) == ["spec.stages"]


def test_a_number_that_the_trainer_would_refuse_is_refused_here() -> None:
    spec = spec_with_stage(optimizer={"peakLr": "0"})

    (problem,) = expand(spec).problems

    assert problem.field == "spec.stages[stage0], as peak_lr"


def test_the_platforms_image_serves_runs_that_name_none() -> None:
    (stage,) = expand(training_spec(1, image={}), default_image="trainer:platform").stages

    assert stage.image.ref == "trainer:platform"


@given(nodes=st.integers(1, 16), processes=st.integers(1, 8), tensor=st.integers(1, 8), pipeline=st.integers(1, 4))
def test_a_layout_fills_the_nodes_exactly_or_there_is_none(
    nodes: int, processes: int, tensor: int, pipeline: int
) -> None:
    spec = training_spec(
        1,
        resources={"nodes": nodes, "processesPerNode": processes},
        parallelism={"tensor": tensor, "pipeline": pipeline},
    )

    expansion = expand(spec)

    world, grid, batch = nodes * processes, tensor * pipeline, spec.stages[0].global_batch
    # Two layers do not keep three stages busy: their mean is well below what one layer costs.
    fits = world % grid == 0 and tensor in (1, 2, 6) and pipeline <= 2 and batch % (world // grid) == 0
    assert (not expansion.problems) == fits
    assert all(stage.layout.world == world for stage in expansion.stages)


def test_a_pipeline_that_its_vision_encoder_would_hold_up_is_refused_until_the_user_says_how_to_split_it() -> None:
    spec = spec_with_stage().model_copy(update={"model": "InternVL2_5-38B"})
    grid = {"tensor": 8, "pipeline": 4}
    large = {"resources": {"nodes": 16, "processesPerNode": 8}, "data": {"meta": "s3://m", "tokenizer": "s3://t"}}
    stage = spec.stages[0].to_dict() | {"globalBatch": 512, "trainable": ["vision", "projector", "language"]}
    (problem,) = expand(training_spec(1, model=spec.model, **large, parallelism=grid, stages=[stage])).problems

    assert problem.field == "spec.parallelism.pipeline"
    assert "lower pipeline to 3" in problem.problem

    split = {**grid, "pipelineLayers": [4, 20, 20, 20]}
    assert expand(training_spec(1, model=spec.model, **large, parallelism=split, stages=[stage])).problems == ()


def test_how_the_model_is_cut_and_what_is_recomputed_reaches_the_trainer() -> None:
    changes = {
        "parallelism": {
            "tensor": 2,
            "pipeline": 2,
            "vision": "tiles",
            "sequence": True,
            "pipelineLayers": [1, 1],
            "optimizer": "replicated",
        },
        "recompute": {"vision": "whole", "language": "none"},
        "attention": "reference",
        "stopAfterTokens": 10**12,
        "loss": {"denominator": "micro-step", "spikeLimit": "2.5"},
    }
    stage = training_spec(1).stages[0].to_dict()
    changes["optimizer"] = {**stage["optimizer"], "decayScope": "matrices"}
    expansion = expand(spec_with_stage(**changes))

    assert expansion.problems == ()
    (plan,) = expansion.stages
    cut = PartitionConfig(vision="tiles", sequence=True, pipeline_layers=(1, 1), optimizer="replicated")
    assert plan.partition == cut
    assert plan.recompute.model_dump() == {"vision": "whole", "language": "none"}
    assert plan.attention == "reference"
    assert (plan.optimization.stop_after_tokens, plan.optimization.loss_denominator) == (10**12, "micro-step")
    assert (plan.optimization.decay_scope, plan.optimization.spike_limit) == ("matrices", 2.5)
    assert (plan.optimization.steps, plan.optimization.loss_reweighting) == (10, "square"), "the rest stays as it was"


def test_what_is_saved_and_kept_reaches_the_trainer_and_by_default_all_is_kept() -> None:
    checkpoint = {"everySteps": 2, "keepLast": 3, "keepEvery": 4}
    (plain,), (kept,) = (expand(spec).stages for spec in (spec_with_stage(), spec_with_stage(checkpoint=checkpoint)))

    assert plain.checkpoint.retention == Retention(keep_last=None, keep_every=None)
    assert kept.checkpoint.every_steps == 2
    assert kept.checkpoint.retention == Retention(keep_last=3, keep_every=4)


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        (
            {"everySteps": 2, "keepEvery": 4},
            "is 4, but without keepLast all checkpoints are kept; give keepLast as well",
        ),
        (
            {"everySteps": 4, "keepLast": 1, "keepEvery": 6},
            "only multiples of everySteps, 4, are saved; use a multiple",
        ),
        (
            {"everySteps": 4, "keepLast": 1, "keepEvery": 12},
            "the stage has 10 steps: none would be kept; use 10 at most",
        ),
    ],
)
def test_a_rule_that_would_keep_nothing_is_refused_with_its_remedy(checkpoint: dict[str, int], words: str) -> None:
    (problem,) = expand(spec_with_stage(checkpoint=checkpoint)).problems

    assert problem.field == "spec.stages[stage0].checkpoint.keepEvery"
    assert words in problem.problem


def test_how_the_store_is_reached_reaches_the_trainer() -> None:
    storage = {
        "uri": "s3://runs/demo",
        "endpointUrl": "https://s3.corp:9000",
        "checksums": "CRC32",
        "caConfigMap": {"name": "corp-ca"},
    }
    (plain,), (private,) = (expand(spec).stages for spec in (training_spec(1), training_spec(1, storage=storage)))

    assert (plain.storage.ca_file, plain.storage.checksums, plain.storage_ca) == (None, "auto", None)
    assert private.storage.endpoint_url == "https://s3.corp:9000"
    assert (private.storage.ca_file, private.storage.checksums) == ("/etc/internvl-storage-ca/ca.crt", "CRC32")


def test_an_authority_for_an_endpoint_without_tls_is_refused() -> None:
    storage = {"uri": "s3://runs/demo", "endpointUrl": "http://s3.corp", "caConfigMap": {"name": "corp-ca"}}

    (problem,) = expand(training_spec(1, storage=storage)).problems

    assert problem.field == "spec.storage.caConfigMap"
    assert "endpointUrl is http://s3.corp, which shows no certificate" in problem.problem


def test_the_job_config_says_all_that_an_attempt_needs() -> None:
    world = World(training_spec(2))
    world.settle()
    world.succeed()
    world.settle()
    created = world.jobs[-1].create

    config = created.config

    assert (config.stage, config.attempt, config.run.name) == ("stage1", 1, "demo")
    assert {ref.uri for ref in config.init.values()} == {world.manifests["stage0", 1].uri}
    assert config.progress is None, "the endpoint is the job builder's business"
    assert type(config).from_bytes(config.to_bytes()) == config
    assert job_config.build(created.stage, world.status.stage("stage1"), created.run) == config
    assert world.jobs[-1].key == AttemptKey("stage1", 1)

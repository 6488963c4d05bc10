"""The pure parts of checkpoints: names, geometries, lineage, metrics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.checkpoint import components, state
from internvl_trainer.checkpoint.errors import GeometryMismatchError, InvalidCheckpointError, UnknownTensorError
from internvl_trainer.checkpoint.origin import lineage_with
from internvl_trainer.checkpoint.state import StepMetrics
from internvl_trainer.contract import catalog, gate
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import ImportedWeights, ManifestRef
from tests.unit.contract.examples import manifest

pytestmark = pytest.mark.unit

owned = st.sampled_from(
    [
        ("vision_model.decoder.weight", "vision"),
        ("projector.linear.weight", "projector"),
        ("language_model.embedding.weight", "language"),
        ("optimizer.state.exp_avg.vision_model.decoder.weight", "optimizer"),
        ("common_state/shard_0_1", "state"),
    ]
)


@given(st.lists(owned, unique=True))
def test_every_name_lands_under_its_component(pairs: list[tuple[str, str]]) -> None:
    grouped = components.by_component(name for name, _ in pairs)
    assert {(name, component) for component, names in grouped.items() for name in names} == set(pairs)


def test_a_name_of_no_component_is_refused() -> None:
    with pytest.raises(UnknownTensorError, match=r"'vision\.weight' belongs to no component.*vision_model\."):
        components.by_component(["vision.weight"])


@pytest.mark.parametrize("component", list(Component))
@pytest.mark.parametrize("name", list(catalog.MODELS))
def test_a_model_fits_itself(name: str, component: Component) -> None:
    components.check_same_shape(component, source=catalog.get(name), target=catalog.get(name), uri="any")


def test_how_layer_scale_was_initialised_does_not_matter() -> None:
    model = catalog.get("InternVL2_5-8B")
    other = model.model_copy(update={"vision": model.vision.model_copy(update={"layer_scale_init": 1.0})})
    components.check_same_shape(Component.VISION, source=model, target=other, uri="any")


def test_a_vit_goes_to_every_model_of_its_family_only() -> None:
    eight, one, big = (catalog.get(f"InternVL2_5-{size}") for size in ("8B", "1B", "38B"))
    components.check_same_shape(Component.VISION, source=eight, target=one, uri="any")
    with pytest.raises(GeometryMismatchError) as caught:
        components.check_same_shape(Component.VISION, source=eight, target=big, uri="s3://bucket/MANIFEST.json")
    told = str(caught.value)
    assert "component vision of s3://bucket/MANIFEST.json differs in layers, hidden, heads" in told
    assert "'hidden': 1024" in told, "the checkpoint's geometry"
    assert "'hidden': 3200" in told, "the job's geometry"


def test_a_projector_depends_on_both_neighbours() -> None:
    with pytest.raises(GeometryMismatchError, match=r"differs in language\.hidden"):
        components.check_same_shape(
            Component.PROJECTOR, source=catalog.get("tiny-8b-like"), target=catalog.get("tiny-1b-like"), uri="any"
        )


def test_a_frozen_vit_leaves_no_trace_in_its_lineage() -> None:
    first, second, third = (ManifestRef(uri=f"s3://bucket/{n}", sha256="0" * 64) for n in range(3))
    trained = lineage_with(first, manifest(stage="stage1.5", trainable=(Component.VISION, Component.PROJECTOR)))
    frozen = lineage_with(second, manifest(stage="stage2", trainable=(Component.LANGUAGE,), vision_lineage=trained))
    again = lineage_with(third, manifest(stage="mpo", trainable=(Component.VISION,), vision_lineage=frozen))
    assert frozen == trained
    assert [(link.stage, link.manifest) for link in again] == [("stage1.5", first), ("mpo", third)]


def test_an_imported_vit_is_the_first_link_of_its_lineage() -> None:
    ref = ManifestRef(uri="s3://bucket/weights/MANIFEST.json", sha256="0" * 64)
    vit = ImportedWeights(uri="s3://models/InternViT", sha256="e" * 64)
    found = lineage_with(ref, manifest(stage="import", step=0, trainable=(), imported={Component.VISION: vit}))
    assert [(link.stage, link.step, link.manifest) for link in found] == [("import", 0, ref)]


metrics = st.builds(
    StepMetrics,
    step=st.integers(1, 10**6),
    loss=st.floats(0, 100),
    grad_norm=st.floats(0, 100),
    learning_rate=st.floats(0, 1),
    tokens=st.integers(0, 10**9),
    tiles=st.integers(0, 10**6),
    seconds=st.floats(0, 10**4),
)


@given(st.lists(metrics, max_size=5).map(tuple))
def test_metrics_come_back_exactly(history: tuple[StepMetrics, ...]) -> None:
    assert state.from_lines(state.to_lines(history)) == history


def test_an_invalid_checkpoint_names_each_problem() -> None:
    problems = [gate.MissingObject("a", 3), gate.SizeMismatch("b", 3, 2)]
    assert str(InvalidCheckpointError.of("s3://bucket/MANIFEST.json", problems)) == (
        "s3://bucket/MANIFEST.json cannot be used: MissingObject: object a (3 bytes) is missing; "
        "SizeMismatch: object b has 2 bytes, the manifest says 3"
    )

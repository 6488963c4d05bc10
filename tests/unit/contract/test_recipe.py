"""The published recipe, tokenizer facts and bases: what the report's tables and sections say, and what follows."""

from itertools import pairwise

import pytest
from pydantic import ValidationError

from internvl_trainer.contract import bases, catalog, recipe, tokens
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.recipe import Published, Trained, UnknownRecipeError

pytestmark = pytest.mark.unit

RELEASED = [name for name in catalog.MODELS if name.startswith("InternVL2_5")]


def test_every_released_size_has_a_recipe_a_base_and_a_tokenizer() -> None:
    assert list(recipe.RECIPES) == list(bases.LANGUAGE_BASES) == RELEASED
    for name in RELEASED:
        language = catalog.get(name).language
        assert language.vocab_size == language.tokenizer.vocab_size
        assert bases.base_of(language) == bases.LANGUAGE_BASES[name]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        (name, ["stage1", "stage1.5", "stage2"] if name[-3:] in ("-8B", "26B") else ["stage1", "stage2"])
        for name in RELEASED
    ],
)
def test_a_vision_encoder_is_tuned_in_one_size_and_handed_to_the_others(name: str, stages: list[str]) -> None:
    found = recipe.of(name)
    assert [stage.name for stage in found.stages] == stages
    if isinstance(found.vision_from, Trained):
        source = found.vision_from
        assert recipe.of(source.model).stage(source.stage).trainable == (Component.VISION, Component.PROJECTOR)
        assert catalog.get(source.model).vision == catalog.get(name).vision
        assert isinstance(recipe.of(source.model).vision_from, Published)
        assert source.outcome.repository.endswith("V2_5")
    else:
        assert "stage1.5" in stages


@pytest.mark.parametrize("name", RELEASED)
def test_stages_train_ever_more(name: str) -> None:
    trained = [set(stage.trainable) for stage in recipe.of(name).stages]
    assert trained[0] == {Component.PROJECTOR}
    assert trained[-1] == set(Component)
    assert all(earlier < later for earlier, later in pairwise(trained))


@pytest.mark.parametrize("name", RELEASED)
def test_the_last_stage_is_as_long_as_its_reported_tokens(name: str) -> None:
    found = recipe.of(name)
    tuning = found.stage("stage2")
    tokens_per_step = tuning.reported_tokens / tuning.schedule_steps
    assert tokens_per_step == 8e6, "the report rounds a pack to 15,625 tokens"
    assert tokens_per_step < tuning.global_batch * found.pack_tokens
    assert tuning.stop_after_tokens is None
    assert tuning.optimization().warmup_steps == {5500: 165, 11000: 330, 22000: 660}[tuning.schedule_steps]


@pytest.mark.parametrize("name", RELEASED)
def test_earlier_stages_stop_long_before_their_schedule_ends(name: str) -> None:
    for stage in recipe.of(name).stages[:-1]:
        job = stage.optimization()
        assert job.stop_after_tokens == stage.reported_tokens
        assert job.stop_after_tokens / 8e6 < 0.5 * job.steps
        assert (job.warmup_steps, job.schedule_steps or job.steps) == (100, 100_000)


def test_first_stages_read_as_many_tokens_as_the_report_says() -> None:
    billions = [recipe.of(name).stages[0].reported_tokens / 1e9 for name in RELEASED]
    assert billions == [191, 277, 164, 22, 31, 107, 76]
    assert recipe.of("InternVL2_5-8B").stage("stage1.5").reported_tokens == 76e9
    assert recipe.of("InternVL2_5-26B").stage("stage1.5").reported_tokens == 146e9


def test_small_models_are_decayed_less_and_large_encoders_dropped_more() -> None:
    for name in RELEASED:
        tuning = recipe.of(name).stage("stage2")
        decays = {stage.weight_decay for stage in recipe.of(name).stages}
        assert decays == {0.01 if name[-3:] in ("-1B", "-2B", "-4B") else 0.05}
        large = catalog.get(name).vision == catalog.INTERN_VIT_6B
        assert (tuning.drop_path, tuning.peak_lr) == ((0.4, 2e-5) if large else (0.1, 4e-5))


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        recipe.of("InternVL2_5-8B").pack_tiles = 24


def test_a_missing_recipe_names_those_that_there_are() -> None:
    with pytest.raises(UnknownRecipeError, match=r"no recipe was published for 'tiny-1b-like'; .*InternVL2_5-78B"):
        recipe.of("tiny-1b-like")
    with pytest.raises(UnknownRecipeError, match=r"no stage 'stage1.5'; its stages: stage1, stage2"):
        recipe.of("InternVL2_5-1B").stage("stage1.5")


@pytest.mark.parametrize(("family", "context", "last"), [("qwen2.5", 151667, 151673), ("internlm2.5", 92546, 92552)])
def test_added_tokens_are_the_last_of_the_vocabulary(family: str, context: int, last: int) -> None:
    facts = tokens.of(family)
    assert facts.added(tokens.IMAGE_CONTEXT) == context
    assert facts.added("</box>") == last == facts.vocab_size - 1
    assert all(token < facts.first_added for token in (facts.turn_start, facts.turn_end, facts.pad, facts.bos or 0))

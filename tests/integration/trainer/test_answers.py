"""A model out of a checkpoint says what it has learned."""

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from internvl_trainer.contract import keys
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ManifestRef
from tests.integration.trainer import cases
from tests.integration.trainer.grid import on_ranks
from tests.integration.trainer.world import COLOURS, QUESTION, answer, job, write_world

pytestmark = pytest.mark.integration

STEPS = 60


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobConfig, ManifestRef]:
    """A model that has seen every colour often enough to know it, trained on two pipeline stages."""
    folder = tmp_path_factory.mktemp("learned")
    world = write_world(folder / "world")
    config = job(
        world, folder / "store", layout={"tensor": 1, "pipeline": 2, "data": 1}, checkpoint={"every_steps": STEPS},
        optimization={"steps": STEPS, "peak_lr": 1e-3, "warmup_steps": 5, "drop_path": 0.0},
    )  # fmt: skip
    file = folder / "job.json"
    file.write_bytes(config.to_bytes())
    assert on_ranks(2, cases.work, file, folder / "log", folder / "scratch") == [0, 0]
    uri = keys.manifest_uri(config.storage.uri, config.run.uid, config.stage, STEPS, 1)
    digest = hashlib.sha256(Path(uri.removeprefix("file://")).read_bytes()).hexdigest()
    return config, ManifestRef(uri=uri, sha256=digest)


def test_it_names_the_colour_and_finds_the_true_name_most_likely(
    learned: tuple[JobConfig, ManifestRef], tmp_path: Path
) -> None:
    config, ref = learned
    pictures = [Image.new("RGB", (112, 112), colour) for colour in COLOURS.values()]
    candidates = [answer(colour) for colour in COLOURS]
    (told,) = on_ranks(1, cases.ask, ref, config.data.tokenizer, tmp_path, QUESTION, pictures, candidates)
    right = [said == truth for said, truth in zip(told.answers, candidates, strict=True)]
    assert sum(right) >= len(COLOURS) - 2, told.answers
    best = [max(range(len(row)), key=row.__getitem__) for row in told.likelihoods]
    assert sum(place == truth for truth, place in enumerate(best)) >= len(COLOURS) - 2
    # An answer's likelihood does not hang on the company that it is asked in, nor does a greedy answer.
    assert told.alone == pytest.approx(told.likelihoods[0], abs=1e-4)
    assert told.first_alone == told.answers[0]

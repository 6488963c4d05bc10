"""The example that anybody can run on a laptop is a valid job, and its data is what its script makes."""

from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageChops

from hack import example_data
from internvl_trainer.cli import train
from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.launch.job_file import read_job

pytestmark = pytest.mark.unit

EXAMPLE = Path(__file__).parents[4] / "trainer/examples/tiny.yaml"


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_it_is_a_job_of_fifty_steps_for_one_process_on_a_model_of_the_catalogue() -> None:
    example = read_job(EXAMPLE, now=datetime.now(UTC))
    assert example.model == MODELS["tiny-8b-like"]
    assert (example.layout.world, example.optimization.steps) == (1, 50)
    assert Path(example.data.meta).is_file()
    assert Path(example.data.tokenizer, "tokenizer.json").is_file()


def test_the_command_in_its_head_is_there_to_be_copied() -> None:
    lines = EXAMPLE.read_text().splitlines()
    assert "#     internvl train --config trainer/examples/tiny.yaml" in lines


def test_its_data_is_what_the_script_makes(tmp_path: Path) -> None:
    example_data.write(tmp_path)
    made, committed = files(tmp_path), files(example_data.FOLDER)
    assert made.keys() == committed.keys()
    for name, path in committed.items():
        if path.suffix == ".png":  # compressed as the machine's zlib does it
            pictures = [Image.open(each).convert("RGB") for each in (path, made[name])]
            assert ImageChops.difference(*pictures).getbbox() is None, name
        elif path.suffix == ".mp4":  # encoded as the machine's FFmpeg does it
            clips = [np.stack(frames(each)).astype(int) for each in (path, made[name])]
            assert abs(clips[0] - clips[1]).mean() < 2, name
        else:
            assert path.read_bytes() == made[name].read_bytes(), name


def test_its_data_is_small_enough_for_the_repository() -> None:
    assert sum(path.stat().st_size for path in files(example_data.FOLDER).values()) < 100_000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--processes", "3"], "--processes is 3, but the layout (tensor 1 x pipeline 1 x data 1) needs 1"),
        (["--set", "optimization.steps=none"], "--set optimization.steps=none: optimization.steps: Input should be"),
        (["--set", "model=InternVL2_5-9B"], "model 'InternVL2_5-9B' is not in the catalogue"),
    ],
)
def test_the_command_refuses_what_makes_no_job(options: list[str], words: str) -> None:
    result = CliRunner().invoke(train, ["--config", str(EXAMPLE), *options])
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert "cannot launch" in result.output
    assert words in result.output

"""`make demo CLUSTER=current` says what is missing before it changes anything."""

from pathlib import Path

import pytest

from hack.demo.preflight import problems

pytestmark = pytest.mark.unit

COMPLETE = {
    "DEMO_STORAGE_URI": "s3://bucket/demo",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "DEMO_OPERATOR_IMAGE": "example.org/operator:1",
    "DEMO_TRAINER_IMAGE": "example.org/trainer:1",
}


def found(name: str) -> str:
    return f"/usr/bin/{name}"


def test_a_complete_environment_has_no_problems():
    assert problems(COMPLETE, found) == []


@pytest.mark.parametrize("name", COMPLETE)
def test_each_missing_variable_is_one_line_that_names_it(name: str):
    (line,) = problems({key: value for key, value in COMPLETE.items() if key != name}, found)
    assert line.startswith(f"{name} is not set")
    assert "\n" not in line


def test_values_of_ones_own_may_name_the_images(tmp_path: Path):
    (tmp_path / "values.yaml").write_text("trainer: {image: mine}\n")
    environment = {key: value for key, value in COMPLETE.items() if "IMAGE" not in key}
    assert problems(environment | {"DEMO_VALUES": str(tmp_path / "values.yaml")}, found) == []
    (line,) = problems(environment | {"DEMO_VALUES": "absent.yaml"}, found)
    assert "absent.yaml" in line


def test_a_folder_is_no_storage_for_pods_elsewhere():
    (line,) = problems(COMPLETE | {"DEMO_STORAGE_URI": "file:///data"}, found)
    assert "s3://" in line

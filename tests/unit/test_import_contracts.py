"""The rules between packages that import-linter checks leave no part of the trainer out."""

import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PARTS = {
    f"internvl_trainer.{path.stem}"
    for path in (ROOT / "trainer" / "internvl_trainer").iterdir()
    if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
}


def test_the_operator_may_import_no_part_of_the_trainer_but_the_contract() -> None:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (rule,) = [each for each in rules if each["name"] == "the operator sees nothing of the trainer but its contract"]

    assert {each for each in rule["forbidden_modules"] if each.startswith("internvl_trainer.")} == PARTS - {
        "internvl_trainer.contract"
    }

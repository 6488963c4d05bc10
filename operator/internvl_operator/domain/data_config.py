"""What a stage trains on: spec.data, with the stage's own fields over it."""

from collections.abc import Sequence

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from internvl_operator.api.data import DataSpec
from internvl_operator.domain.problems import SpecProblem
from internvl_trainer.contract.job import DataConfig

_SETS = ("meta", "mixture")
"""The two ways of naming data sets. A place that gives one of them does not inherit the other."""


def build(defaults: DataSpec, own: DataSpec, *, index: str, where: str) -> tuple[DataConfig | None, list[SpecProblem]]:
    """The data config of a stage, and why there is none: exactly one of the two says something.

    Args:
        defaults: spec.data.
        own: the stage's data.
        index: folder that keeps indexes of data sets.
        where: path of the stage's field data.
    """
    inherited, given = (spec.model_dump(exclude_none=True) for spec in (defaults, own))
    for place, fields in (("spec.data", inherited), (where, given)):
        if all(name in fields for name in _SETS):
            return None, [SpecProblem(f"{place}.mixture", "meta is given, too; give one of the two")]
    if any(name in given for name in _SETS):
        inherited = {name: value for name, value in inherited.items() if name not in _SETS}
    fields = inherited | given
    missing = [] if any(name in fields for name in _SETS) else [SpecProblem(f"{where}.meta", _unset("nor is mixture"))]
    if "tokenizer" not in fields:
        missing.append(SpecProblem(f"{where}.tokenizer", _unset()))
    problems = [*missing, *_used_twice(fields.get("mixture", ()), where)]
    if problems:
        return None, problems
    try:
        return DataConfig.model_validate(fields | {"index": index}), []
    except ValidationError as error:
        return None, [
            SpecProblem(
                ".".join([where, *(to_camel(str(part)) for part in fault["loc"])]),
                fault["msg"].removeprefix("Value error, "),
            )
            for fault in error.errors()
        ]


def _unset(also: str = "") -> str:
    said = "is not set, neither for the stage nor as spec.data"
    return f"{said}, {also}" if also else said


def _used_twice(mixture: Sequence[dict[str, str]], where: str) -> list[SpecProblem]:
    names = [source["name"] for source in mixture]
    return [
        SpecProblem(f"{where}.mixture[{name}]", "this name is used twice; names of data sets must differ")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]

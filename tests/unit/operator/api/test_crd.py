"""The generated CRD: up to date, structural, bounded, and of one mind with the models."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from internvl_operator.api import crd, reference, rules
from internvl_operator.api.crd import UnsupportedSchemaError
from internvl_operator.api.spec import TrainingSpec
from internvl_operator.api.status import TrainingStatus
from tests.property.world import World, training_spec

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[4]
SCHEMA = crd.object_schema()


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All nodes of a structural schema with their paths."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


@pytest.mark.parametrize("path", crd.COPIES, ids=str)
def test_the_repositorys_copies_are_what_the_models_say(path: Path) -> None:
    assert (ROOT / path).read_text() == crd.to_yaml(), "run `internvl crd --write`"


def test_the_reference_page_is_what_the_table_says() -> None:
    assert (ROOT / reference.PAGE).read_text() == reference.to_markdown(), "run `internvl crd --write`"


def test_every_node_has_a_type_and_nothing_that_a_structural_schema_forbids() -> None:
    for path, node in nodes(SCHEMA):
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "$defs", "title", "oneOf", "const", "allOf"} & set(node), path


def test_unknown_fields_are_let_through_at_one_place_only() -> None:
    open_nodes = [path for path, node in nodes(SCHEMA) if node.get("x-kubernetes-preserve-unknown-fields")]

    assert open_nodes == [".spec.podTemplate.spec"]


def test_every_list_string_and_map_is_bounded() -> None:
    for path, node in nodes(SCHEMA):
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if node.get("type") == "string" and path not in (".apiVersion", ".kind"):
            assert {"maxLength", "enum", "format"} & set(node), path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


def test_no_floats_are_in_the_api() -> None:
    assert [path for path, node in nodes(SCHEMA) if node.get("type") == "number"] == []


def test_every_field_that_a_user_writes_is_told_apart_by_its_key() -> None:
    by_path = dict(nodes(SCHEMA))

    for path, key in ((".spec.stages", "name"), (".status.stages", "name"), (".status.conditions", "type")):
        assert by_path[path]["x-kubernetes-list-type"] == "map"
        assert by_path[path]["x-kubernetes-list-map-keys"] == [key]
        assert key in by_path[f"{path}[]"]["required"]


def test_every_rules_field_exists() -> None:
    by_path = dict(nodes(SCHEMA))

    for rule in rules.all_rules():
        at = f".{rule.at}" if rule.at else ""
        assert f"{at}{rule.field}" in by_path, rule
        assert (rule.field.removeprefix(".").split(".")[0] in rule.message) or not rule.field


def test_all_of_the_spec_is_fixed_once_begun_but_what_may_change() -> None:
    fixed = {rule.field.removeprefix(".spec.") for rule in rules.all_rules() if "fixed once" in rule.message}

    assert fixed | rules.CHANGEABLE == set(SCHEMA["properties"]["spec"]["properties"])


def test_the_columns_lead_somewhere() -> None:
    by_path = dict(nodes(SCHEMA))

    for column in crd.definition()["spec"]["versions"][0]["additionalPrinterColumns"]:
        if not column["jsonPath"].startswith(".metadata"):
            assert by_path[column["jsonPath"]]["type"] == column["type"]


def test_what_the_models_write_the_schema_takes() -> None:
    world = World(training_spec(2))
    for _ in range(2):
        world.settle()
        world.start()
        world.settle()
        world.report(5)
        world.fail(1)
    world.settle()
    world.succeed()
    world.settle()

    for name, model in (("spec", world.spec), ("status", world.status)):
        jsonschema.validate(model.to_dict(), SCHEMA["properties"][name], format_checker=jsonschema.FormatChecker())
        assert _unknown(model.to_dict(), SCHEMA["properties"][name]) == []


def test_sub_objects_default_to_empty_so_that_their_fields_defaults_apply() -> None:
    spec = SCHEMA["properties"]["spec"]["properties"]

    assert spec["parallelism"]["default"] == {}
    assert spec["parallelism"]["properties"]["tensor"]["default"] == 1
    filled = _with_defaults({"resources": {"nodes": 3}}, SCHEMA["properties"]["spec"])
    assert filled["resources"]["processesPerNode"] == 1
    assert filled["runPolicy"]["retry"]["backoffSeconds"] == {"initial": 10, "max": 300}


def test_the_servers_defaults_are_the_models_own() -> None:
    written = {key: value for key, value in training_spec(1).to_dict().items() if key in ("model", "storage", "stages")}
    written["stages"] = [
        {
            key: value
            for key, value in stage.items()
            if key in ("name", "trainable", "steps", "globalBatch", "optimizer")
        }
        for stage in written["stages"]
    ]

    filled = _with_defaults(written, SCHEMA["properties"]["spec"])

    assert TrainingSpec.model_validate(filled) == TrainingSpec.model_validate(written)


def test_what_a_structural_schema_cannot_say_is_refused_with_its_place() -> None:
    class Odd(BaseModel):
        share: float | str

    with pytest.raises(UnsupportedSchemaError, match=r"Odd\.share: a union can be of string and integer alone"):
        crd.structural(Odd)


def test_a_status_of_a_newer_operator_can_be_read() -> None:
    newer = {"conditions": [{"type": "Progressing", "status": "True", "reason": "SomethingNew", "severity": "high",
                             "lastTransitionTime": "2026-01-01T00:00:00Z"}], "somethingElse": 1}  # fmt: skip

    (condition,) = TrainingStatus.model_validate(newer).conditions

    assert condition.reason == "SomethingNew"


def test_the_yaml_is_plain() -> None:
    text = crd.to_yaml()

    assert yaml.safe_load(text) == crd.definition()
    assert "&id" not in text


def _with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """What the API server makes of a value: defaults filled in, from the outside inwards."""
    if isinstance(value, dict):
        value = dict(value)
        for name, inner in schema.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                value[name] = _with_defaults(value[name], inner)
    if isinstance(value, list):
        return [_with_defaults(item, schema["items"]) for item in value]
    return value


def _unknown(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Paths that the API server would prune."""
    if isinstance(value, list):
        return [found for item in value for found in _unknown(item, schema["items"], f"{path}[]")]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    if "properties" not in schema:
        return [] if "additionalProperties" in schema else [f"{path}.{name}" for name in value]
    known = schema["properties"]
    unknown = [f"{path}.{name}" for name in value if name not in known]
    return unknown + [
        found for name in value if name in known for found in _unknown(value[name], known[name], f"{path}.{name}")
    ]

"""The CustomResourceDefinition, generated from the pydantic models.

Kubernetes takes *structural* schemas, a subset of OpenAPI 3.0; pydantic gives JSON Schema 2020-12. The difference is
small and handled here: references are inlined, `X | None` becomes an optional X, unions of string and integer become
int-or-string, titles go, and defaults of sub-objects become `{}`, which the API server fills from the fields' own.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from internvl_operator.api import rules
from internvl_operator.api.base import GROUP, KIND, PLURAL, VERSION
from internvl_operator.api.spec import TrainingSpec
from internvl_operator.api.status import TrainingStatus

Schema = dict[str, Any]

COPIES = (Path("crds/internvltrainings.yaml"), Path("charts/internvl-operator/crds/internvltrainings.yaml"))
"""Where the repository keeps the generated CRD."""

_HEADER = "# Generated from operator/internvl_operator/api by `internvl crd --write`. Do not edit.\n"

_KEPT = frozenset(
    {
        "type", "format", "description", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems",
        "maxItems", "minProperties", "maxProperties", "required", "default", "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys", "x-kubernetes-preserve-unknown-fields",
    }
)  # fmt: skip
"""Keywords that mean the same on both sides."""

_DROPPED = frozenset(
    {"title", "$defs", "additionalProperties", "properties", "items", "anyOf", "allOf", "$ref", "const"}
)
"""Keywords that need a translation of their own, or none at all."""


class UnsupportedSchemaError(ValueError):
    """A model uses something that a structural schema cannot say."""


class _PlainDumper(yaml.SafeDumper):
    """Writes equal lists out in full: anchors are no use to readers of a CRD."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def definition() -> Schema:
    """The CustomResourceDefinition as the API server takes it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}", "annotations": {"helm.sh/resource-policy": "keep"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["ivt"],
                "categories": ["training"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": list(_printer_columns()),
                    "schema": {"openAPIV3Schema": object_schema()},
                }
            ],
        },
    }


def to_yaml() -> str:
    """The CRD as it lies in the repository."""
    return _HEADER + yaml.dump(definition(), Dumper=_PlainDumper, sort_keys=False, width=120, allow_unicode=True)


def object_schema() -> Schema:
    """The structural schema of an InternVLTraining, CEL rules included."""
    schema: Schema = {
        "type": "object",
        "description": "One training run: a model, its data and the chain of stages that train it.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(TrainingSpec),
            "status": _without_defaults(structural(TrainingStatus)),
        },
    }
    for rule in rules.all_rules():
        _node(schema, rule.at).setdefault("x-kubernetes-validations", []).append(_validation(rule))
    return schema


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of one model.

    Raises:
        UnsupportedSchemaError: names the path and the keyword that has no equivalent.
    """
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}), model.__name__)


def _convert(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    schema = _resolve(schema, definitions, path)
    unknown = set(schema) - _KEPT - _DROPPED
    if unknown:
        raise UnsupportedSchemaError(f"{path}: {', '.join(sorted(unknown))} cannot be said in a structural schema")
    result: Schema = {key: schema[key] for key in schema if key in _KEPT}
    if "anyOf" in schema:
        if {choice.get("type") for choice in schema["anyOf"]} != {"string", "integer"}:
            raise UnsupportedSchemaError(f"{path}: a union can be of string and integer alone")
        result |= {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
    if "properties" in schema:
        result["properties"] = {
            name: _convert(inner, definitions, f"{path}.{name}") for name, inner in schema["properties"].items()
        }
    elif isinstance(schema.get("additionalProperties"), Mapping) and schema["additionalProperties"]:
        result["additionalProperties"] = _convert(schema["additionalProperties"], definitions, f"{path}{{}}")
    if "items" in schema:
        result["items"] = _convert(schema["items"], definitions, f"{path}[]")
    return _tidy_default(result)


def _resolve(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    """The schema without reference and without null; what stands beside a reference wins over what it points at."""
    merged = dict(schema)
    while "$ref" in merged or "anyOf" in merged:
        if "$ref" in merged:
            target = definitions[merged.pop("$ref").rsplit("/", 1)[-1]]
            merged = {**target, **merged}
            continue
        choices = [choice for choice in merged["anyOf"] if choice.get("type") != "null"]
        if len(choices) == 1:
            del merged["anyOf"]
            merged = {**choices[0], **merged}
        else:
            merged["anyOf"] = choices
            return merged
    return merged


def _tidy_default(schema: Schema) -> Schema:
    default = schema.get("default")
    if schema.get("type") == "object" and default is not None and "properties" in schema:
        return schema | {"default": {}}
    if "default" in schema and default in (None, [], {}):
        return {key: value for key, value in schema.items() if key != "default"}
    return schema


def _without_defaults(schema: Schema) -> Schema:
    """The status is written whole by the operator: nobody fills it in."""
    result = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in result:
        result["properties"] = {name: _without_defaults(inner) for name, inner in result["properties"].items()}
    if "items" in result:
        result["items"] = _without_defaults(result["items"])
    return result


def _node(schema: Schema, path: str) -> Schema:
    for name in filter(None, path.split(".")):
        schema = schema["properties"][name]
    return schema


def _validation(rule: rules.Rule) -> Schema:
    place = {"fieldPath": rule.field} if rule.field else {}
    return {"rule": rule.rule, "message": rule.message, **place}


def _printer_columns() -> Iterator[Schema]:
    columns = (
        ("Phase", "string", ".status.phase", 0),
        ("Stage", "string", ".status.currentStage", 0),
        ("Stages", "string", ".status.stagesSummary", 0),
        ("Step", "string", ".status.progress.steps", 0),
        ("Progress %", "integer", ".status.progress.percent", 0),
        ("Loss", "string", ".status.progress.loss", 0),
        ("Attempt", "integer", ".status.attempt", 0),
        ("Tokens/s", "integer", ".status.progress.tokensPerSecond", 1),
        ("ETA", "string", ".status.progress.eta", 1),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    )
    for name, kind, path, priority in columns:
        yield {"name": name, "type": kind, "jsonPath": path} | ({"priority": priority} if priority else {})

"""What a real API server makes of runs that users apply: defaults, refusals that name the field, and the columns."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster.control_plane import ControlPlane
from internvl_operator.api.crd import COPIES
from internvl_operator.api.training import InternVLTraining
from tests.property.world import World, training_spec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[3]
KUBECTL = Path(sys.executable).parent / "kubectl"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))

Document = dict[str, Any]

STORAGE: Document = {"uri": "s3://runs/demo"}
SOURCE: Document = {"name": "chart_qa", "annotation": "s3://data/chart_qa.jsonl", "repeat": "2.5"}


class Kubectl:
    """`kubectl` as a user runs it, in one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self._prefix = [str(KUBECTL), f"--kubeconfig={kubeconfig}", f"--namespace={namespace}"]

    def run(self, *arguments: str, document: Document | None = None) -> subprocess.CompletedProcess[str]:
        given = json.dumps(document) if document else None
        return subprocess.run([*self._prefix, *arguments], input=given, capture_output=True, text=True, timeout=60)

    def apply(self, document: Document) -> None:
        done = self.run("apply", "-f", "-", document=document)
        assert done.returncode == 0, done.stderr

    def refused(self, document: Document) -> str:
        """What is said about a document that is not let through."""
        done = self.run("apply", "-f", "-", document=document)
        assert done.returncode != 0, "the API server has accepted it"
        return done.stderr

    def get(self, name: str) -> Document:
        return json.loads(self.run("get", "ivt", name, "-o", "json").stdout)


@pytest.fixture(scope="module")
def kubectl(api_server: ControlPlane) -> Iterator[Kubectl]:
    tool = Kubectl(api_server.kubeconfig, "admission")
    tool.run("create", "namespace", "admission")
    yield tool
    tool.run("delete", "namespace", "admission", "--wait=false")


def training(name: str = "demo", **changes: Any) -> Document:
    """A run as a user writes it, with fields of the spec changed."""
    document = yaml.safe_load((ROOT / "examples/tiny-8b-like.yaml").read_text())
    document["metadata"]["name"] = name
    document["spec"] |= changes
    return document


def with_stage(**changes: Any) -> Document:
    """The same with fields of its first stage changed."""
    document = training()
    document["spec"]["stages"][0] |= changes
    return document


def test_the_chart_brings_the_same_definition() -> None:
    first, second = ((ROOT / path).read_text() for path in COPIES)

    assert first == second


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_accepted(kubectl: Kubectl, path: Path) -> None:
    done = kubectl.run("apply", "--dry-run=server", "-f", str(path))

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (training(parallelism={"tensor": 3}), "spec.parallelism.tensor: tensor * pipeline must divide"),
        (training(parallelism={"tensor": 4}), "spec.parallelism.tensor: must divide the heads"),
        (training(parallelism={"tensor": 2, "data": 4}), "spec.parallelism.data: tensor * pipeline * data must be"),
        (
            training(parallelism={"pipeline": 8}, resources={"nodes": 8}),
            "spec.parallelism.pipeline: must not be more than the layers",
        ),
        (with_stage(parallelism={"tensor": 3}), "spec.stages[].parallelism.tensor: tensor * pipeline must divide"),
        (with_stage(resources={"nodes": 1}), "spec.stages[].parallelism.tensor: tensor * pipeline must divide"),
        (with_stage(parallelism={"tensor": 1}, globalBatch=6), "spec.stages[].globalBatch: must be a multiple"),
        (training(data={"meta": "s3://data/m.json"}), "spec.stages[].data.tokenizer: must be set"),
        (training(data={"tokenizer": "s3://data/t"}), "spec.stages[].data.meta: must be set, or data.mixture"),
        (
            training(data={"meta": "s3://data/m.json", "mixture": [SOURCE], "tokenizer": "s3://data/t"}),
            "spec.data.mixture: give one of meta and mixture",
        ),
        (
            with_stage(data={"meta": "s3://data/m.json", "mixture": [SOURCE]}),
            "spec.stages[].data.mixture: give one of meta and mixture",
        ),
        (with_stage(data={"mixture": [SOURCE, SOURCE]}), "spec.stages[0].data.mixture[1]: Duplicate value"),
        (with_stage(data={"mixture": []}), "spec.stages[0].data.mixture"),
        (with_stage(data={"mixture": [SOURCE | {"repeat": "0"}]}), "spec.stages[0].data.mixture[0].repeat"),
        (with_stage(data={"minFrames": 33}), "spec.stages[].data.minFrames: must not be more than maxFrames"),
        (with_stage(data={"maxBadFraction": "1.1"}), "spec.stages[0].data.maxBadFraction"),
        (training(vision={"from": {}}), "spec.vision.from: give exactly one of trainingRef and uri"),
        (
            training(vision={"from": {"uri": "s3://a/b", "trainingRef": {"name": "x", "stage": "y"}}}),
            "spec.vision.from: give exactly one of trainingRef and uri",
        ),
        (
            training(vision={"from": {"uri": "s3://a/b"}}, weights={"vision": "s3://c/d"}),
            "spec.weights.vision: spec.vision.from says already",
        ),
        (
            training(vision={"from": {"trainingRef": {"name": "demo", "stage": "stage1"}}}),
            "spec.vision.from.trainingRef.name: a run cannot wait for its own",
        ),
        (training(model="InternVL3-8B"), "spec.model: Unsupported value"),
        (training(storage={"uri": "http://bucket"}), "spec.storage.uri"),
        (training(stages=[]), "spec.stages"),
        (training(stages=training()["spec"]["stages"][:1] * 2), "spec.stages[1]: Duplicate value"),
        (with_stage(name="Stage_1"), "spec.stages[0].name"),
        (with_stage(trainable=["vision", "vision"]), "spec.stages[0].trainable[1]: Duplicate value"),
        (with_stage(optimizer={"peakLr": 0.001}), "spec.stages[0].optimizer.peakLr"),
        (training("x" * 31), "metadata.name: at most 30 characters"),
        (training("8b.run"), "metadata.name: at most 30 characters"),
        (training(paralelism={}), 'unknown field "spec.paralelism"'),
        (
            with_stage(checkpoint={"everySteps": 5, "keepEvery": 5}),
            "spec.stages[].checkpoint.keepEvery: needs keepLast",
        ),
        (
            with_stage(checkpoint={"everySteps": 5, "keepLast": 1, "keepEvery": 7}),
            "spec.stages[].checkpoint.keepEvery: must be a multiple of everySteps",
        ),
        (
            with_stage(checkpoint={"everySteps": 5, "keepLast": 1, "keepEvery": 15}),
            "spec.stages[].checkpoint.keepEvery: must not be more than the stage's steps",
        ),
        (with_stage(checkpoint={"keepLast": 0}), "spec.stages[0].checkpoint.keepLast"),
        (training(storage=STORAGE | {"checksums": "MD5"}), "spec.storage.checksums: Unsupported value"),
        (training(storage=STORAGE | {"endpointUrl": "https://key:secret@s3.corp"}), "spec.storage.endpointUrl"),
        (
            training(storage=STORAGE | {"endpointUrl": "http://s3.corp", "caConfigMap": {"name": "corp-ca"}}),
            "spec.storage.caConfigMap: endpointUrl is no https:// URL",
        ),
    ],
)
def test_a_mistake_is_refused_with_the_name_of_the_field(kubectl: Kubectl, document: Document, words: str) -> None:
    assert words in kubectl.refused(document)


def test_defaults_are_those_of_the_models(kubectl: Kubectl) -> None:
    written = training("defaults")
    kubectl.apply(written)

    stored = kubectl.get("defaults")

    assert stored["spec"]["runPolicy"]["retry"]["backoffSeconds"] == {"initial": 10, "max": 300}
    assert stored["spec"]["stages"][0]["loss"] == {"reweighting": "square", "denominator": "global-batch"}
    assert InternVLTraining.model_validate(stored).spec == InternVLTraining.model_validate(written).spec


def test_a_mixture_is_stored_with_its_defaults_and_a_stage_may_have_its_own(kubectl: Kubectl) -> None:
    written = training("mixture", data={"mixture": [SOURCE], "tokenizer": "s3://data/t"})
    written["spec"]["stages"][0]["data"] = {"meta": "s3://data/m.json", "minFrames": 4, "frameSampling": "fps0.5"}
    kubectl.apply(written)

    stored = kubectl.get("mixture")

    assert stored["spec"]["data"]["mixture"] == [SOURCE | {"augment": False}]
    assert InternVLTraining.model_validate(stored).spec == InternVLTraining.model_validate(written).spec


def test_how_the_store_is_reached_and_what_is_kept_is_stored_with_defaults(kubectl: Kubectl) -> None:
    kubectl.apply(training("plain", storage=STORAGE))
    kept, private = {"everySteps": 5, "keepLast": 2, "keepEvery": 10}, {"caConfigMap": {"name": "corp-ca"}}
    written = training("private", storage=STORAGE | private | {"endpointUrl": "https://s3.corp", "checksums": "none"})
    written["spec"]["stages"][0]["checkpoint"] = kept
    kubectl.apply(written)

    plain, stored = kubectl.get("plain")["spec"], kubectl.get("private")["spec"]

    assert plain["storage"] == STORAGE | {"pathStyle": True, "checksums": "auto"}
    assert stored["storage"]["caConfigMap"] == {"name": "corp-ca", "key": "ca.crt"}
    assert stored["stages"][0]["checkpoint"] == kept
    assert InternVLTraining.model_validate(kubectl.get("private")).spec == InternVLTraining.model_validate(written).spec


def test_an_overlay_is_kept_as_it_was_written(kubectl: Kubectl) -> None:
    overlay = {"spec": {"nodeSelector": {"gpu": "h100"}, "containers": [{"name": "pytorch", "tty": True}]}}

    kubectl.apply(training("overlay", podTemplate=overlay))

    assert kubectl.get("overlay")["spec"]["podTemplate"]["spec"] == overlay["spec"]


def begin(kubectl: Kubectl, name: str) -> World:
    """Apply a run and write the status that the operator writes when its first attempt trains."""
    kubectl.apply(training(name))
    world = World(training_spec(2))
    world.settle()
    world.start()
    world.report(4)
    world.settle()
    status = json.dumps({"status": world.status.to_dict()})
    done = kubectl.run("patch", "ivt", name, "--subresource=status", "--type=merge", f"--patch={status}")
    assert done.returncode == 0, done.stderr
    return world


def test_what_the_operator_writes_into_the_status_is_stored_unchanged(kubectl: Kubectl) -> None:
    world = begin(kubectl, "status")

    assert kubectl.get("status")["status"] == world.status.to_dict()


def test_before_it_begins_a_run_may_be_corrected(kubectl: Kubectl) -> None:
    kubectl.apply(training("early"))

    kubectl.apply(training("early", resources={"nodes": 4, "processesPerNode": 1}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "tiny-1b-like"),
        ("resources", {"nodes": 4, "processesPerNode": 1}),
        ("data", {"meta": "s3://data/other.json", "tokenizer": "s3://data/tokenizer"}),
        ("weights", {"language": "s3://models/other/MANIFEST.json"}),
        ("vision", {"from": {"uri": "s3://runs/vision.json"}}),
        ("stages", training()["spec"]["stages"][:2]),
    ],
)
def test_once_it_has_begun_the_spec_is_fixed(kubectl: Kubectl, field: str, value: Any) -> None:
    begin(kubectl, "fixed")

    assert f"spec.{field}: fixed once the first stage has begun" in kubectl.refused(training("fixed", **{field: value}))


def test_but_it_may_be_suspended_and_its_limits_and_overlay_may_change(kubectl: Kubectl) -> None:
    begin(kubectl, "changeable")

    kubectl.apply(
        training(
            "changeable", suspend=True, runPolicy={"retry": {"limit": 9}}, podTemplate={"spec": {"hostNetwork": True}}
        )
    )


def test_kubectl_get_shows_where_a_run_stands(kubectl: Kubectl) -> None:
    begin(kubectl, "columns")

    head, row = kubectl.run("get", "ivt", "columns").stdout.splitlines()
    wide = kubectl.run("get", "internvltrainings", "columns", "-o", "wide").stdout

    assert head.split() == ["NAME", "PHASE", "STAGE", "STAGES", "STEP", "PROGRESS", "%", "LOSS", "ATTEMPT", "AGE"]
    assert row.split()[:-1] == ["columns", "Running", "stage0", "0/2", "4/10", "40", "2.5", "1"]
    assert "TOKENS/S" in wide
    assert "columns" in kubectl.run("get", "training").stdout


def test_explain_documents_the_fields(kubectl: Kubectl) -> None:
    explained = kubectl.run("explain", "ivt.spec.parallelism.tensor").stdout

    assert "processes that share each layer" in explained

"""What the chart installs: the least rights, a pod that `restricted` takes, and settings that the operator reads."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from hack.cluster.paths import REPOSITORY
from internvl_operator.config import OperatorSettings, load_settings
from tests.chart.conftest import CHART, NAMESPACE, Helm, JsonObject, Render, RenderAll

pytestmark = pytest.mark.integration

NAME = "release-internvl-operator"


def container(objects: dict[tuple[str, str], JsonObject]) -> JsonObject:
    found: JsonObject = pod_spec(objects)["containers"][0]
    return found


def pod_spec(objects: dict[tuple[str, str], JsonObject]) -> JsonObject:
    found: JsonObject = objects["Deployment", NAME]["spec"]["template"]["spec"]
    return found


def settings(objects: dict[tuple[str, str], JsonObject], folder: Path) -> OperatorSettings:
    path = folder / "settings.yaml"
    path.write_text(objects["ConfigMap", NAME]["data"]["settings.yaml"])
    return load_settings(path, {})


def rules(role: JsonObject) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_helm_finds_nothing_wrong(helm: Helm) -> None:
    linted = helm("lint", "--strict", str(CHART))
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_the_crd_is_the_generated_one() -> None:
    assert (CHART / "crds" / "internvltrainings.yaml").read_text() == (
        REPOSITORY / "crds" / "internvltrainings.yaml"
    ).read_text()


def test_the_operator_reads_what_the_chart_writes(render: Render, tmp_path: Path) -> None:
    read = settings(
        render(
            trainer={"image": "trainer:1", "podTemplate": {"spec": {"nodeSelector": {"gpu": "h100"}}}},
            gate={"fullDigestBytes": 5},
            progress={"intervalSeconds": 2.5},
            logging={"format": "plain", "level": "DEBUG"},
        ),
        tmp_path,
    )
    assert read.watch_namespaces == (NAMESPACE,)
    assert read.trainer.pod_template == {"spec": {"nodeSelector": {"gpu": "h100"}}}
    assert read.gate.full_digest_bytes == 5
    assert read.progress.public_url == f"https://{NAME}-progress.{NAMESPACE}.svc:8443"
    assert (read.progress.report_seconds, read.reconcile.progress_seconds) == (2.5, 2.5)
    assert (read.logging.format, read.logging.level) == ("plain", "DEBUG")


def test_the_charts_defaults_are_the_operators(render: Render, tmp_path: Path) -> None:
    read = settings(render(progress={"enabled": False}), tmp_path)
    assert read == OperatorSettings(watch_namespaces=(NAMESPACE,))


def test_large_numbers_stay_whole(render: Render, tmp_path: Path) -> None:
    assert settings(render(gate={"fullDigestBytes": 10**12}), tmp_path).gate.full_digest_bytes == 10**12


def test_every_served_namespace_gets_its_own_small_role(render_all: RenderAll) -> None:
    objects = render_all(watchNamespaces=["team-a", "team-b"])
    for kind in ("Role", "RoleBinding"):
        made = [body["metadata"]["namespace"] for body in objects if body["kind"] == kind]
        assert made == ["team-a", "team-b"]
    subjects = [body["subjects"] for body in objects if body["kind"] == "RoleBinding"]
    assert subjects == [[{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]] * 2
    (cluster_wide,) = (rules(body) for body in objects if body["kind"] == "ClusterRole")
    assert cluster_wide == {("authentication.k8s.io", "tokenreviews", "create")}


def test_the_role_grants_what_the_operator_does_and_nothing_else(render: Render) -> None:
    assert rules(render()["Role", NAME]) == {
        ("training.internvl.dev", "internvltrainings", "get"),
        ("training.internvl.dev", "internvltrainings", "list"),
        ("training.internvl.dev", "internvltrainings", "watch"),
        ("training.internvl.dev", "internvltrainings/status", "update"),
        ("training.internvl.dev", "internvltrainings/finalizers", "update"),
        ("kubeflow.org", "pytorchjobs", "get"),
        ("kubeflow.org", "pytorchjobs", "list"),
        ("kubeflow.org", "pytorchjobs", "watch"),
        ("kubeflow.org", "pytorchjobs", "create"),
        ("kubeflow.org", "pytorchjobs", "delete"),
        ("batch", "jobs", "get"),
        ("batch", "jobs", "list"),
        ("batch", "jobs", "watch"),
        ("batch", "jobs", "create"),
        ("batch", "jobs", "delete"),
        ("", "configmaps", "get"),
        ("", "configmaps", "create"),
        ("", "pods", "list"),
        ("", "pods", "watch"),
        ("", "secrets", "get"),
        ("events.k8s.io", "events", "create"),
    }


def test_secrets_can_be_out_of_reach(render: Render) -> None:
    granted = rules(render(rbac={"readSecrets": False})["Role", NAME])
    assert not any(resource == "secrets" for _, resource, _ in granted)


def test_without_progress_a_namespace_administrator_can_install_it(render: Render) -> None:
    kinds = {kind for kind, _ in render(progress={"enabled": False})}
    assert kinds == {"ServiceAccount", "ConfigMap", "Role", "RoleBinding", "Deployment"}


def test_all_namespaces_need_the_cluster_role(render: Render, tmp_path: Path) -> None:
    objects = render(watchNamespaces=["*"])
    assert not any(kind == "Role" for kind, _ in objects)
    assert ("kubeflow.org", "pytorchjobs", "create") in rules(objects["ClusterRole", f"{NAMESPACE}-{NAME}"])
    assert settings(objects, tmp_path).watch_namespaces == ()


def test_the_pod_is_as_restricted_as_can_be(render: Render) -> None:
    objects = render()
    assert pod_spec(objects)["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert container(objects)["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def test_there_is_one_operator_and_never_two(render: Render) -> None:
    spec = render()["Deployment", NAME]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_it_listens_on_the_pods_address_alone(render: Render) -> None:
    variables = {entry["name"]: entry for entry in container(render())["env"]}
    for section in ("HEALTH", "PROGRESS"):
        source = variables[f"INTERNVL_OPERATOR__{section}__HOST"]["valueFrom"]["fieldRef"]["fieldPath"]
        assert source == "status.podIP"


def test_new_settings_restart_the_operator_and_a_new_certificate_does_not(render: Render) -> None:
    def checksum(**values: Any) -> str:
        template = render(**values)["Deployment", NAME]["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/settings"])

    assert checksum() == checksum()
    assert checksum() != checksum(trainer={"image": "trainer:2"})


def test_the_certificate_is_for_the_name_that_pods_call(render: Render) -> None:
    objects = render(progress={"publicUrl": "https://operator.example.org:443"})
    data = objects["Secret", f"{NAME}-progress-tls"]["data"]
    authority = x509.load_pem_x509_certificate(base64.b64decode(data["ca.crt"]))
    certificate = x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"]))
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {
        f"{NAME}-progress.{NAMESPACE}.svc", f"{NAME}-progress.{NAMESPACE}.svc.cluster.local", "operator.example.org",
    }  # fmt: skip


def test_a_given_secret_takes_the_place_of_ours(render: Render) -> None:
    objects = render(progress={"tls": {"existingSecret": "from-cert-manager"}})
    assert not any(kind == "Secret" for kind, _ in objects)
    (volume,) = (volume for volume in pod_spec(objects)["volumes"] if volume["name"] == "tls")
    assert volume["secret"]["secretName"] == "from-cert-manager"


def test_the_service_leads_to_the_pods_port(render: Render) -> None:
    objects = render(progress={"port": 443})
    service = objects["Service", f"{NAME}-progress"]["spec"]
    labels = objects["Deployment", NAME]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    (port,) = service["ports"]
    named = {entry["name"]: entry["containerPort"] for entry in container(objects)["ports"]}
    assert (port["port"], named[port["targetPort"]]) == (443, 8443)


def test_an_environment_from_volumes_can_take_the_images_place(render: Render) -> None:
    objects = render(
        command=["/env/bin/python", "-m", "internvl_operator.main"],
        extraArgs=["--help"],
        extraEnv=[{"name": "PYTHONPATH", "value": "/env"}],
        extraVolumes=[{"name": "env", "persistentVolumeClaim": {"claimName": "env", "readOnly": True}}],
        extraVolumeMounts=[{"name": "env", "mountPath": "/env", "readOnly": True}],
    )
    found = container(objects)
    assert found["command"] == ["/env/bin/python", "-m", "internvl_operator.main"]
    assert found["args"] == ["--config=/etc/internvl-operator/settings.yaml", "--help"]
    assert {"name": "PYTHONPATH", "value": "/env"} in found["env"]
    assert "env" in {mount["name"] for mount in found["volumeMounts"]}
    assert "env" in {volume["name"] for volume in pod_spec(objects)["volumes"]}


def test_a_digest_wins_over_a_tag(render: Render) -> None:
    digest = f"sha256:{'a' * 64}"
    assert container(render(image={"digest": digest, "tag": "1"}))["image"] == f"internvl-operator@{digest}"
    assert container(render(image={"tag": "1"}))["image"] == "internvl-operator:1"


@pytest.mark.parametrize(
    "values",
    [
        {"watchNamespace": ["a"]},
        {"watchNamespaces": ["*", "a"]},
        {"watchNamespaces": ["Not_A_Namespace"]},
        {"trainer": {"podTemplate": {"containers": []}}},
        {"progress": {"publicUrl": "http://plain"}},
        {"progress": {"intervalSeconds": 0}},
        {"gate": {"fullDigestBytes": "1Gi"}},
        {"image": {"digest": "sha256:short"}},
        {"logging": {"level": "info"}},
        {"rbac": {"create": "yes"}},
    ],
    ids=json.dumps,
)
def test_values_that_cannot_be_meant_are_refused(helm: Helm, tmp_path: Path, values: JsonObject) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    rendered = helm("template", "release", str(CHART), f"--values={path}")
    assert rendered.returncode != 0
    assert "don't meet the specifications of the schema" in rendered.stderr


def test_every_default_value_is_described_by_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(defaults) == set(schema["properties"]) - {"global"}

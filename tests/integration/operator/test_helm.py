"""The chart's life on a real API server: install, upgrade, uninstall."""

import subprocess
from collections.abc import Callable, Iterator

import pytest
from kubernetes.client import ApiException, ApiextensionsV1Api, AppsV1Api

from hack.cluster.control_plane import ControlPlane
from hack.cluster.paths import State
from tests.integration.operator.conftest import CHART
from tests.integration.operator.harness import Cluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

Helm = Callable[..., str]
SECRET = "release-internvl-operator-progress-tls"


@pytest.fixture
def helm(api_server: ControlPlane, cluster: Cluster) -> Iterator[Helm]:
    """Runs helm in the test's namespace; what it installed goes with the test."""
    program = str(State().binary("helm"))

    def helm(command: str, *arguments: str) -> str:
        common = [f"--namespace={cluster.namespace}", f"--kubeconfig={api_server.kubeconfig}"]
        done = subprocess.run(
            [program, command, "release", *arguments, *common], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield helm
    subprocess.run(
        [program, "uninstall", "release", f"--namespace={cluster.namespace}", f"--kubeconfig={api_server.kubeconfig}"],
        capture_output=True, timeout=60,
    )  # fmt: skip


def test_an_upgrade_keeps_the_certificate_that_running_trainers_trust(helm: Helm, cluster: Cluster) -> None:
    helm("install", str(CHART))
    before = cluster.core.read_namespaced_secret(SECRET, cluster.namespace).data
    helm("upgrade", str(CHART), "--set=logging.level=DEBUG")
    assert cluster.core.read_namespaced_secret(SECRET, cluster.namespace).data == before
    settings = cluster.core.read_namespaced_config_map("release-internvl-operator", cluster.namespace).data
    assert "level: DEBUG" in settings["settings.yaml"]


def test_the_notes_say_where_to_look(helm: Helm, cluster: Cluster) -> None:
    notes = helm("install", str(CHART))
    assert f"serves InternVLTrainings in {cluster.namespace}" in notes
    assert "No default trainer image is set" in notes


def test_runs_and_their_kind_survive_an_uninstall(
    helm: Helm, cluster: Cluster, make_training: Callable[..., dict[str, object]]
) -> None:
    helm("install", str(CHART))
    cluster.submit(make_training())
    helm("uninstall")
    with pytest.raises(ApiException, match="404"):
        AppsV1Api(cluster.api).read_namespaced_deployment("release-internvl-operator", cluster.namespace)
    assert cluster.training("run")["spec"]["model"] == "tiny-1b-like"
    ApiextensionsV1Api(cluster.api).read_custom_resource_definition("internvltrainings.training.internvl.dev")

"""What the components are given: configurations, certificates, images and claims."""

import base64
import io
import json
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hack.cluster import certs, control_plane, debian, dns_and_services, images, node, python_environment, status
from hack.cluster.cluster import endpoint
from hack.cluster.paths import State, write_private
from hack.cluster.settings import Settings

pytestmark = pytest.mark.unit


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


@pytest.fixture
def settings() -> Settings:
    return Settings.from_environment(2)


def test_a_certificate_names_its_user_and_hosts() -> None:
    authority = certs.Authority("test")
    pair = authority.issue("system:node:node-0", ["system:nodes"], hosts=["node-0", "10.244.0.1"])
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.pair.certificate))
    assert certificate.subject.rfc4514_string() == "CN=system:node:node-0,O=system:nodes"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node-0"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.244.0.1"]
    assert load_pem_private_key(pair.key, None).public_key() == certificate.public_key()


def test_a_kubeconfig_embeds_everything() -> None:
    pair = certs.Pair(b"certificate", b"key")
    found = yaml.safe_load(certs.kubeconfig("https://127.0.0.1:1", b"authority", pair))
    assert found["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:1"
    assert base64.b64decode(found["users"][0]["user"]["client-key-data"]) == b"key"


def test_secrets_are_private_from_the_first_byte(tmp_path: Path) -> None:
    write_private(tmp_path / "secret", "x")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_the_control_plane_listens_where_it_should(state: State, settings: Settings) -> None:
    where = endpoint(settings)
    assert "--bind-address=10.244.0.1" in control_plane.apiserver_command(state, where)
    assert "--advertise-address=10.244.0.1" in control_plane.apiserver_command(state, where)
    for command in (control_plane.controller_manager_command, control_plane.scheduler_command):
        assert "--bind-address=127.0.0.1" in command(state, where)
    assert "--listen-client-urls=https://127.0.0.1:26379" in control_plane.etcd_command(state, where)


def test_dns_and_kube_proxy_stay_on_the_bridge(state: State, settings: Settings) -> None:
    assert dns_and_services.corefile(state, settings).count("bind 10.244.0.1") == 2
    assert dns_and_services.proxy_config(state, settings)["nodePortAddresses"] == ["10.244.0.1/32"]


def test_nodes_share_nothing(state: State, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "program", lambda _, name: Path(f"/debian/{name}"))
    parsed = [tomllib.loads(node.containerd_config(state, one)) for one in settings.nodes]
    for key in ("root", "state"):
        assert parsed[0][key] != parsed[1][key]
    assert parsed[0]["grpc"]["address"] != parsed[1]["grpc"]["address"]
    kubelets = [node.kubelet_config(state, settings, one) for one in settings.nodes]
    for key in ("address", "healthzPort", "cgroupRoot", "podLogsDir", "containerRuntimeEndpoint"):
        assert kubelets[0][key] != kubelets[1][key]


def test_an_image_is_the_same_bytes_for_the_same_content(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"x")
    image = images.Image("localhost/x:1", files={"a/b": program, "etc/passwd": b"root"}, links={"bin": "usr/bin"})
    data = images.layer(image)
    assert data == images.layer(image)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        modes = {entry.name: oct(entry.mode) for entry in archive}
    assert modes == {"a": "0o755", "etc": "0o755", "a/b": "0o755", "etc/passwd": "0o644", "bin": "0o644"}


def test_claims_are_read_only_and_bound_to_their_volumes(state: State) -> None:
    documents = python_environment.manifests(state, "team-a")
    volumes = {one["metadata"]["name"]: one for one in documents if one["kind"] == "PersistentVolume"}
    claims = [one for one in documents if one["kind"] == "PersistentVolumeClaim"]
    assert len(volumes) == len(claims) == len(python_environment.sources())
    for claim in claims:
        volume = volumes[claim["spec"]["volumeName"]]["spec"]
        assert volume["claimRef"] == {"namespace": "team-a", "name": claim["metadata"]["name"]}
        assert volume["accessModes"] == claim["spec"]["accessModes"] == ["ReadOnlyMany"]


def test_pods_see_neither_the_repository_nor_its_state() -> None:
    found = python_environment.overlay()
    # /tmp is an empty folder of the pod's own, whatever lies below this machine's.
    paths = [Path(mount["mountPath"]) for mount in found["volumeMounts"] if mount["name"] != "tmp"]
    assert all(mount.get("readOnly") for mount in found["volumeMounts"] if mount["name"] != "tmp")
    assert not any(State().cluster.is_relative_to(path) for path in paths)
    assert json.dumps(found)


@pytest.mark.parametrize(
    ("address", "private"),
    [("127.0.0.1", True), ("::1", True), ("10.244.1.1", True), ("0.0.0.0", False), ("::", False), ("192.0.2.2", False)],
)
def test_what_counts_as_a_private_listener(address: str, private: bool) -> None:
    assert status.is_private(address) is private

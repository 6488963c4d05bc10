"""Addresses and ports: where they come from, and that they cannot collide."""

import pytest

from hack.cluster.settings import PODS_VARIABLE, PORTS_VARIABLE, SERVICES_VARIABLE, Settings

pytestmark = pytest.mark.unit


def test_each_node_has_a_bridge_and_a_range_of_its_own() -> None:
    settings = Settings.from_environment(2)
    assert [(one.name, one.bridge, one.address, str(one.pods)) for one in settings.nodes] == [
        ("node-0", "ivt0", "10.244.0.1", "10.244.0.0/24"),
        ("node-1", "ivt1", "10.244.1.1", "10.244.1.0/24"),
    ]
    assert settings.api_url == "https://10.244.0.1:26443"
    assert settings.api_service == "10.96.0.1"


def test_no_two_components_share_an_address_and_port() -> None:
    places = [(address, port) for _, address, port in Settings.from_environment(2).listeners()]
    assert len(places) == len(set(places))


def test_nothing_listens_beyond_loopback_and_the_bridges() -> None:
    settings = Settings.from_environment(2)
    assert {address for _, address, _ in settings.listeners()} == {
        "127.0.0.1",
        *(one.address for one in settings.nodes),
    }


def test_the_ports_move_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORTS_VARIABLE, "27000")
    assert {port // 1000 for _, _, port in Settings.from_environment(2).listeners()} == {0, 27}  # 0: DNS


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        (PORTS_VARIABLE, "80", "must be a number from 1024 to 65000"),
        (PORTS_VARIABLE, "many", "'many'"),
        (PODS_VARIABLE, "10.244.0.0/24", "at least a /16"),
        (PODS_VARIABLE, "10.244.0.1/16", "no IPv4 network"),
        (SERVICES_VARIABLE, "fd00::/64", "no IPv4 network"),
    ],
)
def test_a_setting_that_cannot_work_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable) as error:
        Settings.from_environment()
    assert complaint in str(error.value)


@pytest.mark.parametrize("nodes", [0, 3])
def test_there_are_one_or_two_nodes(nodes: int) -> None:
    with pytest.raises(ValueError, match="1 to 2"):
        Settings.from_environment(nodes)

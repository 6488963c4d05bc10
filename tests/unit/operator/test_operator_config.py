"""The operator's settings: a file, the environment over it, and one clear line where they cannot be used."""

from pathlib import Path

import pytest

from internvl_operator.config import InvalidSettingsError, OperatorSettings, load_settings

pytestmark = pytest.mark.unit


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text)
    return path


def test_without_file_and_environment_the_defaults_hold() -> None:
    assert load_settings(None, {}) == OperatorSettings()


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load_settings(written(tmp_path, ""), {}) == OperatorSettings()


def test_the_file_is_written_in_camel_case(tmp_path: Path) -> None:
    path = written(tmp_path, "watchNamespaces: [team-a]\ngate: {fullDigestBytes: 7}\ntrainer: {image: trainer:1}")
    settings = load_settings(path, {})
    assert settings.watch_namespaces == ("team-a",)
    assert settings.gate.full_digest_bytes == 7
    assert settings.trainer.image == "trainer:1"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "health: {host: 127.0.0.1, port: 1}")
    settings = load_settings(path, {"INTERNVL_OPERATOR__HEALTH__HOST": "10.1.2.3", "PATH": "/bin"})
    assert (settings.health.host, settings.health.port) == ("10.1.2.3", 1)


def test_an_ipv6_address_from_the_environment_stays_a_string() -> None:
    settings = load_settings(None, {"INTERNVL_OPERATOR__HEALTH__HOST": "fd00:10::5"})
    assert settings.health.host == "fd00:10::5"


def test_values_of_the_environment_are_yaml() -> None:
    settings = load_settings(None, {"INTERNVL_OPERATOR__WATCH_NAMESPACES": "[a, b]"})
    assert settings.watch_namespaces == ("a", "b")


def test_an_endpoint_without_certificate_is_refused() -> None:
    with pytest.raises(InvalidSettingsError, match="certificateFile, keyFile and caFile"):
        load_settings(None, {"INTERNVL_OPERATOR__PROGRESS__PUBLIC_URL": "https://operator.example:8443"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gate: {threads: 0}", "gate.threads"),
        ("gate: {treads: 4}", "gate.treads"),
        ("- a list", "holds a list"),
        ("{", "is no YAML"),
        ("progress: {publicUrl: 'http://plain'}", "progress.publicUrl"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_the_place(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidSettingsError) as caught:
        load_settings(path, {})
    message = str(caught.value)
    assert expected in message
    assert str(path) in message
    assert "\n" not in message


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingsError, match="cannot be read: No such file"):
        load_settings(tmp_path / "nowhere.yaml", {})


def test_a_variable_cannot_lead_into_a_value(tmp_path: Path) -> None:
    path = written(tmp_path, "trainer: {image: x}")
    with pytest.raises(InvalidSettingsError, match="leads into image"):
        load_settings(path, {"INTERNVL_OPERATOR__TRAINER__IMAGE__TAG": "1"})

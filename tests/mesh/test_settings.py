"""Settings: one declaration, three sources, and a sentence for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from mesh.settings import ServiceSettings, SettingsError, load_settings, read_settings, redacted


class ExampleSettings(ServiceSettings):
    token: SecretStr = Field(SecretStr(""), description="A secret.")
    models: list[str] = Field([], description="Names.")


def read(*argv: str, environment: dict[str, str] | None = None) -> ExampleSettings:
    return read_settings(ExampleSettings, prog="gateway", argv=argv, environment=environment or {})


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("grpc_port: 1\nmetrics_port: 1\nhost: from-file\n")
    environment = {
        "MESHSERVE_GATEWAY_GRPC_PORT": "2",
        "MESHSERVE_GRPC_PORT": "9",
        "MESHSERVE_METRICS_PORT": "2",
        "HOST": "not ours",
        "GRACE_S": "1",
    }

    settings = read("--config", str(file), "--grpc-port", "3", environment=environment)

    assert (settings.grpc_port, settings.metrics_port, settings.host, settings.grace_s) == (3, 2, "from-file", 20.0)


def test_variable_of_the_service_wins_over_the_general_one() -> None:
    environment = {"MESHSERVE_GATEWAY_GRPC_PORT": "2", "MESHSERVE_GRPC_PORT": "9"}

    assert read(environment=environment).grpc_port == 2


def test_lists_come_from_repeated_flags_and_from_a_variable() -> None:
    assert read("--models", "a", "--models", "b").models == ["a", "b"]
    assert read(environment={"MESHSERVE_MODELS": "[a, b]"}).models == ["a", "b"]


def test_wrong_value_names_field_value_and_range() -> None:
    with pytest.raises(SettingsError, match="grpc_port: '99999' is not allowed: .*less than or equal to 65535"):
        read("--grpc-port", "99999")


def test_wrong_value_ends_the_process_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load_settings(ExampleSettings, prog="gateway", argv=["--drain-s", "soon"], environment={})

    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("gateway: drain_s: 'soon' is not allowed")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "must hold a map"),
        ("grpc_prot: 1", "unknown setting 'grpc_prot'"),
        ("a: [", "is not YAML"),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)

    with pytest.raises(SettingsError, match=message):
        read("--config", str(file))


def test_absent_file_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot read '/nowhere.yaml'"):
        read("--config", "/nowhere.yaml")


def test_dump_hides_secrets() -> None:
    dump = redacted(read("--token", "s3cret"))

    assert dump["token"] == "***"
    assert "s3cret" not in str(dump)

"""What the gateway can be told, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import GatewaySettings
from mesh.settings import SettingsError, read_settings


def test_defaults_are_the_documented_ports() -> None:
    settings = read_settings(GatewaySettings, prog="gateway", argv=[], environment={})

    assert (settings.http_port, settings.grpc_port) == (8080, 8081)
    assert settings.prediction_log_path == Path(".meshserve/predictions.jsonl")


def test_prediction_log_can_be_elsewhere_or_off() -> None:
    argv = ["--no-prediction-log", "--prediction-log-file", "/var/log/p.jsonl"]
    settings = read_settings(GatewaySettings, prog="gateway", argv=argv, environment={})

    assert not settings.prediction_log
    assert settings.prediction_log_path == Path("/var/log/p.jsonl")


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--http-port", "70000"), ("--request-timeout-s", "0"), ("--max-body-bytes", "1"), ("--body-timeout-s", "x")],
)
def test_wrong_value_is_refused_with_its_name(flag: str, value: str) -> None:
    with pytest.raises(SettingsError, match=flag.removeprefix("--").replace("-", "_")):
        read_settings(GatewaySettings, prog="gateway", argv=[flag, value], environment={})

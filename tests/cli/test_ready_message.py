"""The message of a ready mesh: addresses, models, and commands that suit what is served."""

from __future__ import annotations

from cli.ready_message import commands_to_try, ready_message
from deploy.local.run_info import DeploymentInfo, RunInfo, ServiceInfo

SMOLLM2, IRIS = DeploymentInfo("smollm2", "llm", None), DeploymentInfo("iris", "sklearn", None)
REGISTRY = ServiceInfo("registry", "serving", 1, 1.0, 0, "127.0.0.1:8090", "127.0.0.1:9190", None, "x")
GATEWAY = ServiceInfo("gateway", "serving", 1, 1.0, 0, "127.0.0.1:8081", "127.0.0.1:9181", "127.0.0.1:8080", "x")


def info(*deployments: DeploymentInfo, url: str = "http://127.0.0.1:8080") -> RunInfo:
    return RunInfo(1, 1.0, url, (REGISTRY, GATEWAY), deployments)


def test_the_default_mesh_is_tried_by_a_chat_a_prediction_and_an_explanation() -> None:
    assert commands_to_try(info(SMOLLM2, IRIS), "meshserve") == [
        'meshserve chat "Name the capital of France."',
        "curl -s http://127.0.0.1:8080/v1/models/iris:predict -d '{\"instances\": [[5.1, 3.5, 1.4, 0.2]]}'",
        "meshserve explain iris --data '[[5.1, 3.5, 1.4, 0.2]]'",
    ]


def test_another_address_is_in_every_command() -> None:
    commands = commands_to_try(info(SMOLLM2, IRIS, url="http://127.0.0.1:9"), "meshserve")

    assert all("http://127.0.0.1:9" in command for command in commands)


def test_what_failed_is_not_proposed() -> None:
    broken = DeploymentInfo("smollm2", "llm", "its file is truncated")

    commands = commands_to_try(info(broken), "meshserve")

    assert len(commands) == 3
    assert not any("smollm2" in command or "chat" in command for command in commands)


def test_addresses_and_models_stand_in_columns() -> None:
    text = ready_message(info(SMOLLM2, DeploymentInfo("iris", "sklearn", "no such file")), 6.21)

    assert "ready after 6.2 s, but for what failed" in text
    assert "  gateway   http://127.0.0.1:8080  grpc://127.0.0.1:8081  http://127.0.0.1:9181/metrics" in text
    assert "  model  iris     sklearn  failed: no such file" in text

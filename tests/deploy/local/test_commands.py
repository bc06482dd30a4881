"""The command lines of the services: addresses, files, and threads set on purpose."""

from __future__ import annotations

from pathlib import Path

from deploy.local.commands import ServiceSpec, service_specs
from deploy.local.ports import default_ports
from deploy.local.state_dir import StateDir


def specs(tmp_path: Path) -> dict[str, ServiceSpec]:
    found = service_specs(
        StateDir(tmp_path),
        default_ports(),
        deployments_file=tmp_path / "d.yaml",
        models=("smollm2", "iris"),
    )
    return {spec.name: spec for spec in found}


def flag(spec: ServiceSpec, name: str) -> str:
    arguments = spec.command.arguments
    return arguments[arguments.index(name) + 1]


def test_the_registry_is_first_and_the_gateway_last(tmp_path: Path) -> None:
    assert list(specs(tmp_path)) == ["registry", "predictor", "transformer", "explainer", "gateway"]


def test_every_other_service_finds_the_registry(tmp_path: Path) -> None:
    registry, *others = specs(tmp_path).values()

    assert "--registry" not in registry.command.arguments
    assert {flag(spec, "--registry") for spec in others} == {registry.grpc_address} == {"127.0.0.1:8090"}


def test_all_but_the_slowest_start_after_the_registry(tmp_path: Path) -> None:
    assert [name for name, spec in specs(tmp_path).items() if not spec.after] == ["registry", "predictor"]


def test_only_the_gateway_can_be_opened_to_other_machines(tmp_path: Path) -> None:
    found = service_specs(
        StateDir(tmp_path), default_ports(), deployments_file=tmp_path / "d", models=(), host="0.0.0.0"
    )

    hosts = {spec.name: flag(spec, "--host") for spec in found}
    assert [name for name, host in hosts.items() if host == "0.0.0.0"] == ["gateway"]
    assert all(spec.grpc_address.startswith("127.0.0.1:") for spec in found)


def test_the_gateway_ends_first_and_the_registry_last(tmp_path: Path) -> None:
    waves = {name: spec.stop_wave for name, spec in specs(tmp_path).items()}

    assert waves == {"gateway": 0, "predictor": 1, "transformer": 1, "explainer": 1, "registry": 2}


def test_registry_and_predictor_read_the_same_deployments(tmp_path: Path) -> None:
    found = specs(tmp_path)

    assert flag(found["registry"], "--deployments") == flag(found["predictor"], "--deployments")


def test_a_model_serves_when_predictor_and_gateway_say_so(tmp_path: Path) -> None:
    holders = [name for name, spec in specs(tmp_path).items() if spec.health_names == ("smollm2", "iris")]

    assert holders == ["predictor", "gateway"]


def test_every_service_has_a_folder_and_files_of_its_own(tmp_path: Path) -> None:
    found = specs(tmp_path).values()

    assert len({flag(spec, "--state-dir") for spec in found}) == len(found)
    assert len({flag(spec, "--ready-file") for spec in found}) == len(found)
    assert len({spec.log_path for spec in found}) == len(found)


def test_only_the_predictor_may_use_more_than_one_thread(tmp_path: Path) -> None:
    threads = {name: spec.command.environment.get("OMP_NUM_THREADS") for name, spec in specs(tmp_path).items()}

    assert threads.pop("predictor") is None
    assert set(threads.values()) == {"1"}

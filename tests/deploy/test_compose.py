"""What deploy/compose.yaml and deploy/Dockerfile promise, read from the files: no engine is needed to keep it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.prepare import DEFAULT_DEPLOYMENTS
from mesh.deployments import read_deployments
from mesh.settings import ServiceSettings
from predictor.llm.native.compiler import PREBUILT_DIR

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS = ROOT / "deploy" / "compose" / "deployments.yaml"

SERVICES = ("registry", "transformer", "explainer", "predictor", "gateway")
ONE_SHOT = "train-iris"
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]

each_container = pytest.mark.parametrize("name", sorted(CONTAINERS))
each_service = pytest.mark.parametrize("name", SERVICES)


def test_the_five_services_and_what_prepares_them_are_all_there_is() -> None:
    assert set(CONTAINERS) == {*SERVICES, ONE_SHOT}


@each_container
def test_container_has_no_right_that_it_does_not_use(name: str) -> None:
    container = CONTAINERS[name]

    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "user", "devices", "pid", "ipc"} & set(container)
    assert container.get("network_mode", "none") == "none"


@each_container
def test_container_writes_only_to_volumes_and_bounded_memory(name: str) -> None:
    container = CONTAINERS[name]

    assert container["read_only"] is True
    assert all("size=" in mount for mount in container["tmpfs"])
    assert all(volume.split(":")[0] in COMPOSE["volumes"] for volume in container["volumes"])


@each_container
def test_container_is_bounded_in_processes_and_logs(name: str) -> None:
    assert CONTAINERS[name]["pids_limit"] > 0
    assert {"max-size", "max-file"} <= set(CONTAINERS[name]["logging"]["options"])


def test_only_the_gateway_has_ports_outside_and_those_on_the_loopback_address() -> None:
    published = {name: container["ports"] for name, container in CONTAINERS.items() if "ports" in container}

    assert set(published) == {"gateway"}
    assert all(port.startswith("127.0.0.1:") for port in published["gateway"])


def test_only_gateway_and_predictor_are_on_a_network_with_a_way_out() -> None:
    open_networks = {name for name, network in COMPOSE["networks"].items() if not (network or {}).get("internal")}

    connected = {name for name in SERVICES if open_networks & set(CONTAINERS[name]["networks"])}

    assert connected == {"gateway", "predictor"}


@pytest.mark.parametrize("name", ["predictor", "transformer", "explainer"])
def test_service_that_may_have_replicas_announces_its_containers_own_name(name: str) -> None:
    # One name for all of them would be one address for two replicas.
    assert "MESHSERVE_ADVERTISE_HOST" not in CONTAINERS[name]["environment"]


@each_service
def test_environment_names_settings_that_exist(name: str) -> None:
    known = {f"MESHSERVE_{field.upper()}" for field in ServiceSettings.model_fields} | {"MESHSERVE_DEPLOYMENTS"}

    given = {variable for variable in CONTAINERS[name]["environment"] if variable.startswith("MESHSERVE_")}

    assert given <= known


@each_service
def test_service_starts_again_when_it_dies_and_may_drain_when_it_is_stopped(name: str) -> None:
    defaults = ServiceSettings.model_fields
    drain_s = defaults["drain_s"].default + defaults["grace_s"].default

    assert CONTAINERS[name]["restart"] == "unless-stopped"
    assert CONTAINERS[name]["init"] is True
    assert int(CONTAINERS[name]["stop_grace_period"].removesuffix("s")) > drain_s


@each_service
def test_container_runs_the_image_that_its_target_builds(name: str) -> None:
    container = CONTAINERS[name]

    assert container["build"]["target"] == name
    assert container["image"].startswith(f"meshserve/{name}:")
    assert (ROOT / "deploy" / container["build"]["context"] / container["build"]["dockerfile"]).is_file()


def test_predictor_counts_as_healthy_once_every_deployed_model_is_served() -> None:
    names = [deployment.name for deployment in read_deployments(DEPLOYMENTS)]

    assert CONTAINERS["predictor"]["healthcheck"]["test"][-len(names) :] == names


def test_deployments_are_those_of_a_local_mesh_with_the_model_in_a_volume() -> None:
    here = {deployment.name: deployment for deployment in read_deployments(DEPLOYMENTS)}
    local = {deployment.name: deployment for deployment in read_deployments(DEFAULT_DEPLOYMENTS)}
    folder = CONTAINERS[ONE_SHOT]["entrypoint"][-1]

    assert here["iris"].predictor.storage_uri == f"file://{folder}"
    local["iris"].predictor.storage_uri = here["iris"].predictor.storage_uri
    assert here == local


def test_trained_model_reaches_the_predictor_read_only() -> None:
    (volume,) = CONTAINERS[ONE_SHOT]["volumes"]

    assert f"{volume}:ro" in CONTAINERS["predictor"]["volumes"]
    assert CONTAINERS["predictor"]["depends_on"][ONE_SHOT] == {"condition": "service_completed_successfully"}


@each_service
def test_image_installs_its_own_extra_and_runs_as_a_numbered_user(name: str) -> None:
    stages = _stages(DOCKERFILE)

    assert f"'.[{name}]'" in stages[f"{name}-venv"]
    assert f"--from={name}-venv" in stages[name]
    assert stages[name].startswith(f"FROM runtime AS {name}\n")
    assert re.search(r"^USER \d+:\d+$", stages["runtime"], re.MULTILINE)


def test_the_predictor_finds_the_kernels_that_its_image_brings() -> None:
    stages = _stages(DOCKERFILE)
    python = re.search(r"PATH=(/\S+)/bin:", stages["runtime"])
    copied = re.search(r"^COPY --from=kernels (\S+) (\S+)$", stages["predictor"], re.MULTILINE)

    assert python is not None
    assert copied is not None
    assert f"python -m predictor.llm.native --to {copied[1]}" in stages["kernels"]
    # Where `build` looks, with the image's Python in the place of this one.
    assert copied[2] == python[1] + str(PREBUILT_DIR).removeprefix(sys.prefix)


@each_service
def test_image_has_a_health_check_on_the_port_that_it_exposes(name: str) -> None:
    stage = _stages(DOCKERFILE)[name]
    probed = re.search(r'CMD \["python", "-m", "deploy.compose.probe", "127.0.0.1:(\d+)"\]', stage)
    exposed = re.search(r"^EXPOSE (.+)$", stage, re.MULTILINE)

    assert probed is not None
    assert exposed is not None
    assert probed[1] in exposed[1].split()
    assert f'ENTRYPOINT ["python", "-m", "{name}"]' in stage


def test_every_installation_keeps_to_the_constraints() -> None:
    installations = re.findall(r"/bin/pip --python \S+ install [^\n]*", DOCKERFILE)

    assert installations
    assert all("--constraint constraints.txt" in line or "--no-deps" in line for line in installations)


def test_build_sees_every_package_of_the_distribution_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

    rules = [line for line in lines if line and not line.startswith("#")]

    assert rules[0] == "*"
    assert {f"!{package}" for package in ("mesh", "deploy", "examples", "cli", *SERVICES)} <= set(rules)


def _stages(dockerfile: str) -> dict[str, str]:
    """name → text of each stage, from its FROM line."""
    texts = re.split(r"^(?=FROM )", dockerfile, flags=re.MULTILINE)[1:]
    return {text.split("\n")[0].rsplit(" AS ", 1)[1]: text for text in texts}

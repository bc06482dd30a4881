"""`up` as a process: signals end it and everything under it, and what it cannot start with is a sentence."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

import psutil
import pytest

from deploy.local.ports import free_ports
from deploy.local.state_dir import StateDir
from deploy.local.up import UpOptions, gateway_url, up
from mesh.errors import Conflict, InvalidInput
from mesh.serve import PortTaken

ROOT = Path(__file__).parents[3]


@contextmanager
def running_up(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """The process of `up`, ready, and all processes under it: services and what they started."""
    ports = [str(port) for port in astuple(free_ports())[:2]]
    command = [sys.executable, "-m", "tests.deploy.local.fake_up", str(folder / "state"), *ports]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            pids = [int(process.stdout.readline()) for _ in ports]
            assert process.stdout.readline() == "ready\n"
            services = [psutil.Process(pid) for pid in pids]
            yield process, services + [child for service in services for child in service.children(recursive=True)]
        finally:
            process.kill()


def assert_all_end(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_and_leaves_no_orphan(tmp_path: Path, number: int) -> None:
    with running_up(tmp_path) as (process, processes):
        assert len(processes) == 4
        process.send_signal(number)

        assert process.wait(timeout=20) == 0
        assert_all_end(processes)
    left = [path.name for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert sorted(left) == ["gateway.log", "lock", "registry.log"]


def test_a_killed_supervisor_leaves_no_service(tmp_path: Path) -> None:
    with running_up(tmp_path) as (process, processes):
        services = [each for each in processes if each.ppid() == process.pid]
        assert len(services) == 2
        process.kill()

        assert_all_end(services)


def test_the_services_are_out_of_the_terminals_reach(tmp_path: Path) -> None:
    with running_up(tmp_path) as (process, processes):
        groups = {os.getpgid(each.pid) for each in processes}

        assert len(groups) == 2
        assert os.getpgid(process.pid) not in groups


async def test_a_taken_port_ends_the_start_before_anything_runs(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]

        with pytest.raises(PortTaken, match=f"port {port}"):
            await up(UpOptions(state_dir=tmp_path / "state", http_port=port, port_offset=20_000), print)

    assert not StateDir(tmp_path / "state").is_locked()
    assert not (tmp_path / "state" / "logs").exists()


async def test_a_second_up_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with StateDir(tmp_path).locked():
        with pytest.raises(Conflict, match="a mesh already runs"):
            await up(UpOptions(state_dir=tmp_path, free_ports=True), print)


async def test_wrong_deployments_end_the_start_with_file_deployment_and_field(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("deployments: [{name: m, predictor: {model_format: llm, storage_uri: nonsense}}]")

    with pytest.raises(InvalidInput, match=r"mine\.yaml: deployment 'm': predictor\.storage_uri"):
        await up(UpOptions(state_dir=tmp_path / "state", deployments=file, free_ports=True), print)


def test_the_gateway_url_is_one_that_a_client_here_can_use() -> None:
    ports = free_ports()

    assert gateway_url("0.0.0.0", ports) == f"http://127.0.0.1:{ports.gateway_http}"

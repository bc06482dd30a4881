"""Which mesh is meant: the named one, the one that runs here, or the default address."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.failure import Failure
from cli.target import DEFAULT_URL, find_target
from deploy.local.run_info import RunInfo, ServiceInfo, write_run_info
from deploy.local.state_dir import StateDir

GATEWAY = ServiceInfo("gateway", "serving", 1, 1.0, 0, "127.0.0.1:7001", "127.0.0.1:1", "127.0.0.1:7000", "x")
INFO = RunInfo(1, 1.0, "http://127.0.0.1:7000", (GATEWAY,), ())


def test_without_a_mesh_here_it_is_the_default_address(tmp_path: Path) -> None:
    target = find_target(None, tmp_path)

    assert target.url == DEFAULT_URL
    assert target.grpc_address == "127.0.0.1:8081"


def test_the_mesh_that_runs_here_is_found(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    with state.locked():
        write_run_info(state.run_file, INFO)

        target = find_target(None, tmp_path)

    assert (target.url, target.grpc_address) == ("http://127.0.0.1:7000", "127.0.0.1:7001")


def test_what_a_killed_mesh_left_is_not_believed(tmp_path: Path) -> None:
    write_run_info(StateDir(tmp_path).run_file, INFO)

    assert find_target(None, tmp_path).url == DEFAULT_URL


def test_a_named_gateway_wins_and_may_lack_its_scheme(tmp_path: Path) -> None:
    assert find_target("host:9", tmp_path).url == "http://host:9"
    assert find_target("https://host/", tmp_path).url == "https://host"


@pytest.mark.parametrize("nonsense", ["ftp://host", "http://", "http://host:x", "http://host:99999"])
def test_nonsense_is_a_sentence(nonsense: str, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="is not a URL; write it like"):
        find_target(nonsense, tmp_path)

"""`run.json` comes back as it was written, and counts only while its mesh runs."""

from __future__ import annotations

from pathlib import Path

from deploy.local.run_info import DeploymentInfo, RunInfo, ServiceInfo, read_run_info, write_run_info
from deploy.local.state_dir import StateDir

GATEWAY = ServiceInfo("gateway", "serving", 42, 1.5, 0, "127.0.0.1:8081", "127.0.0.1:9181", "127.0.0.1:8080", "g.log")
INFO = RunInfo(41, 1.0, "http://127.0.0.1:8080", (GATEWAY,), (DeploymentInfo("iris", "sklearn", None),))


def test_what_is_written_is_read_while_the_mesh_runs(tmp_path: Path) -> None:
    state = StateDir(tmp_path)

    with state.locked():
        write_run_info(state.run_file, INFO)
        assert read_run_info(state) == INFO

    assert read_run_info(state) is None


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    write_run_info(tmp_path / "run.json", INFO)

    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_file_that_makes_no_sense_is_no_mesh(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    with state.locked():
        for text in ("", "[]", '{"pid": 1}', "not json"):
            state.run_file.write_text(text)

            assert read_run_info(state) is None

"""One `up` per state directory; the lock goes with its holder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.state_dir import StateDir
from mesh.errors import Conflict, Unavailable

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from deploy.local.state_dir import StateDir
with StateDir(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_user_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")

    with state.locked():
        assert state.is_locked()
        with pytest.raises(Conflict, match=rf"already runs .*\(pid {os.getpid()}\).*--state-dir"), state.locked():
            pass

    assert not state.is_locked()


def test_the_lock_goes_when_its_holder_is_killed(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    command = [sys.executable, "-c", HOLDER, str(state.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert state.is_locked()
        holder.kill()

    with state.locked():
        pass


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(Unavailable, match="cannot use the state directory"), StateDir(tmp_path / "file" / "x").locked():
        pass


def test_a_folder_that_nobody_uses_is_not_locked(tmp_path: Path) -> None:
    assert not StateDir(tmp_path / "absent").is_locked()

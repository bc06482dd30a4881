"""A child ends with its parent, whatever it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.predictor.running import eventually

CHILD = (
    "from predictor.parent_process import die_with_parent; import os, sys, time; die_with_parent(int(sys.argv[1])); "
)
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1] + "print('tied', flush=True); time.sleep(600)",
                          str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


async def test_a_child_is_gone_when_its_parent_was_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE)  # noqa: ASYNC220
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()

    async def is_gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    await eventually(is_gone, 30, "the child has ended")


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    child = subprocess.run([sys.executable, "-c", CHILD + "print('lives')", str(os.getpid() + 1)], capture_output=True)

    assert (child.returncode, child.stdout) == (0, b"")

"""What is launched is the program itself, and it dies with its launcher's parent."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

from deploy.local import launch

SLEEPER = "import time; time.sleep(600)"
# Starts a sleeper through the launcher, says its pid, and waits to be killed.
PARENT = f"""
import os, subprocess, sys, time
arguments = [sys.executable, "-I", "-S", {launch.__file__!r}, str(os.getpid()), sys.executable, "-c", {SLEEPER!r}]
print(subprocess.Popen(arguments, start_new_session=True).pid, flush=True)
time.sleep(600)
"""


def launched(parent: int, *program: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-I", "-S", launch.__file__, str(parent), *program]
    return subprocess.run(command, capture_output=True, check=False)


def test_the_launcher_becomes_the_program() -> None:
    result = launched(os.getpid(), sys.executable, "-c", "import sys; print(sys.argv[1:], sys.flags.isolated)", "a b")

    assert result.stdout == b"[] 0\n" or result.stdout == b"['a b'] 0\n"


def test_a_program_whose_parent_is_gone_does_not_start() -> None:
    result = launched(1, sys.executable, "-c", "print('started')")

    assert (result.returncode, result.stdout) == (1, b"")


def test_the_program_dies_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        program = psutil.Process(int(parent.stdout.readline()))
        parent.kill()

    program.wait(timeout=10)

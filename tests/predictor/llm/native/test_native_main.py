"""`python -m predictor.llm.native`, as an image's builder runs it; the compiler is a stand-in that copies a library."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from predictor.llm.native.compiler import build, prebuilt_path
from predictor.llm.native.targets import PORTABLE, X86_TARGETS
from tests.predictor.llm.native.test_compiler import compiler_that_copies


def run(folder: Path, programs: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "predictor.llm.native", "--to", str(folder)]
    env = {**os.environ, "PATH": programs}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_there_is_a_library_for_every_cpu_that_the_kernels_are_fast_on(
    tmp_path: Path, artifact_cache_dir: Path
) -> None:
    compiler_that_copies(build(artifact_cache_dir), tmp_path)
    folder = tmp_path / "new" / "kernels"

    done = run(folder, f"{tmp_path}:{os.defpath}")

    assert done.returncode == 0, done.stderr
    targets = X86_TARGETS if platform.machine() == "x86_64" else (PORTABLE,)
    assert set(folder.iterdir()) == {prebuilt_path(target, folder) for target in targets}
    # Built as root, loaded by another user.
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())


def test_without_a_compiler_the_image_is_not_built(tmp_path: Path) -> None:
    done = run(tmp_path / "kernels", str(tmp_path))

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "there is no C++ compiler: g++ is not on the path"

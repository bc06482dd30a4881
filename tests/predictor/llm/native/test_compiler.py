"""Kernels are compiled once for a machine, and who cannot compile is told why."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from mesh.errors import Unavailable, Unsupported
from predictor.llm.native.compiler import build, cpu_flags
from predictor.llm.native.library import CacheShape, KvFormat, NativeLibrary


def test_two_builders_at_once_make_one_library_that_loads(tmp_path: Path) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(build(tmp_path))) for _ in range(2)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(paths) == 2 and paths[0] == paths[1]
    assert {path.name for path in (tmp_path / "native").iterdir()} == {paths[0].name, "build.lock"}
    assert NativeLibrary(paths[0]).block_bytes(CacheShape(KvFormat.BFLOAT16, 16, 3, 64)) == 3 * 2 * 64 * 16 * 2


def test_what_is_built_is_not_built_again(tmp_path: Path, artifact_cache_dir: Path) -> None:
    built = build(artifact_cache_dir)
    (tmp_path / "native").mkdir(mode=0o700)
    kept = tmp_path / "native" / built.name
    kept.write_bytes(b"not looked into")

    assert build(tmp_path) == kept
    assert kept.read_bytes() == b"not looked into"


def test_without_a_compiler_it_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"no C\+\+ compiler: g\+\+ is not on the path"):
        build(tmp_path, find=lambda name: None)


def test_a_compiler_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="cannot compile the kernels.*no-such-cpu"):
        build(tmp_path, target="no-such-cpu")

    assert [path.name for path in (tmp_path / "native").iterdir()] == ["build.lock"]


def test_a_compiler_that_cannot_run_is_unsupported(tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_bytes(b"\x7fELF no program")
    compiler.chmod(0o700)

    with pytest.raises(Unsupported, match="cannot be run"):
        build(tmp_path, find=lambda name: str(compiler))


def test_code_is_not_loaded_from_where_others_can_write(tmp_path: Path) -> None:
    (tmp_path / "native").mkdir()
    (tmp_path / "native").chmod(0o777)

    with pytest.raises(Unavailable, match="others can write to it"):
        build(tmp_path)


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(Unavailable, match="cannot be kept in"):
        build(tmp_path / "file")


def test_another_compiler_means_another_library(tmp_path: Path) -> None:
    """The version of the compiler is part of the name."""
    real = shutil.which("g++")
    assert real is not None
    other = tmp_path / "g++"
    other.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "another version" || exec {real} "$@"\n')
    other.chmod(0o700)

    assert build(tmp_path, find=lambda name: str(other), target="native").name != build(tmp_path).name


def test_cpu_flags_are_those_of_the_first_cpu(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t\t: other\n")

    assert cpu_flags(cpuinfo) == {"fpu", "avx2", "fma"}
    assert cpu_flags(tmp_path / "missing") == frozenset()

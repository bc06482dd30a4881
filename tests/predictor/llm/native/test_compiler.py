"""Kernels are compiled once for a machine, and who cannot compile is told why."""

from __future__ import annotations

import shlex
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mesh.errors import Unavailable, Unsupported
from predictor.llm.native.compiler import build, prebuild, prebuilt_path
from predictor.llm.native.library import CacheShape, KvFormat, NativeLibrary
from predictor.llm.native.targets import PORTABLE, X86_TARGETS, Target, best_target, cpu_flags


def loads(library: Path) -> bool:
    shape = CacheShape(KvFormat.BFLOAT16, 16, 3, 64)
    return NativeLibrary(library).block_bytes(shape) == 3 * 2 * 64 * 16 * 2


def keep_copy(library: Path, cache_dir: Path) -> Path:
    """Where `build` would look for it in `cache_dir`."""
    (cache_dir / "native").mkdir(mode=0o700)
    return Path(shutil.copy(library, cache_dir / "native"))


def compiler_that(does: str, folder: Path, version: str = "") -> Callable[[str], str]:
    """Says `version`, else that of the real compiler, and otherwise runs `does` in a shell."""
    real = shutil.which("g++")
    assert real is not None
    says = f"echo {version}" if version else f"exec {real} --version"
    compiler = folder / "g++"
    compiler.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then {says}; exit; fi\n{does}\n')
    compiler.chmod(0o700)
    return lambda name: str(compiler)


def compiler_that_copies(library: Path, folder: Path, version: str = "") -> Callable[[str], str]:
    """A fast stand-in for the real one."""
    return compiler_that(
        f'while [ "$1" != -o ]; do shift; done; exec cp {shlex.quote(str(library))} "$2"', folder, version
    )


def test_two_builders_at_once_make_one_library_that_loads(tmp_path: Path) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(build(tmp_path))) for _ in range(2)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(paths) == 2 and paths[0] == paths[1]
    assert {path.name for path in (tmp_path / "native").iterdir()} == {paths[0].name, "build.lock"}
    assert loads(paths[0])


def test_what_is_built_is_not_built_again(tmp_path: Path, artifact_cache_dir: Path) -> None:
    kept = keep_copy(build(artifact_cache_dir), tmp_path)

    assert build(tmp_path, find=compiler_that("exit 1", tmp_path)) == kept


@pytest.mark.parametrize("damage", ["empty", "cut", "changed"])
def test_a_damaged_library_is_built_again(tmp_path: Path, artifact_cache_dir: Path, damage: str) -> None:
    built = build(artifact_cache_dir)
    kept = keep_copy(built, tmp_path)
    content = bytearray(kept.read_bytes())
    content[5000] ^= 1
    kept.write_bytes({"empty": b"", "cut": content[:9000], "changed": bytes(content)}[damage])

    with capture_logs() as events:
        rebuilt = build(tmp_path, find=compiler_that_copies(built, tmp_path))

    assert rebuilt == kept
    assert loads(rebuilt)
    assert events[0]["event"] == "native_kernels_damaged"


def test_a_damaged_library_is_not_loaded_where_it_cannot_be_built_again(
    tmp_path: Path, artifact_cache_dir: Path
) -> None:
    kept = keep_copy(build(artifact_cache_dir), tmp_path)
    kept.write_bytes(kept.read_bytes()[:9000])

    with pytest.raises(Unsupported, match="cannot compile the kernels"):
        build(tmp_path, find=compiler_that("exit 1", tmp_path))


def test_what_was_built_beforehand_needs_no_compiler(tmp_path: Path) -> None:
    target = best_target(cpu_flags())
    (library,) = prebuild(tmp_path / "kernels", (target,))

    found = build(tmp_path / "cache", prebuilt_dir=tmp_path / "kernels", find=lambda name: None)

    assert found == library
    assert not (tmp_path / "cache").exists()
    assert loads(found)


def test_what_was_built_for_another_cpu_or_is_damaged_is_passed_over(tmp_path: Path) -> None:
    library = prebuilt_path(PORTABLE, tmp_path)
    library.write_bytes(b"\x7fELF half a library")

    for target in (PORTABLE, best_target(cpu_flags())):
        with pytest.raises(Unsupported, match=r"no C\+\+ compiler"):
            build(tmp_path / "cache", target=target, prebuilt_dir=tmp_path, find=lambda name: None)


def test_each_target_has_a_library_of_its_own() -> None:
    assert len({prebuilt_path(target).name for target in (*X86_TARGETS, PORTABLE)}) == 4


def test_without_a_compiler_it_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"no C\+\+ compiler: g\+\+ is not on the path"):
        build(tmp_path, find=lambda name: None)


def test_a_compiler_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="cannot compile the kernels.*no-such-cpu"):
        build(tmp_path, target=Target("other", ("-march=no-such-cpu",), frozenset()))

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


def test_a_folder_that_cannot_be_written_is_unavailable() -> None:
    # Even root cannot make a folder here.
    with pytest.raises(Unavailable, match="cannot be kept in /proc/native"):
        build(Path("/proc"))


def test_another_compiler_means_another_library(tmp_path: Path, artifact_cache_dir: Path) -> None:
    """The version of the compiler is part of the name."""
    built = build(artifact_cache_dir)

    other = build(tmp_path, find=compiler_that_copies(built, tmp_path, version="another"))

    assert other.name != built.name

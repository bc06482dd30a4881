"""The cache gives whole, verified artifacts or an error, and keeps nothing of what failed."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mesh.errors import CorruptArtifact, DeadlineExceeded, DiskFull, NotFound, Unavailable
from mesh.storage import Cache
from mesh.storage.disk import StagedFile
from mesh.storage.lock import file_lock

if TYPE_CHECKING:
    from tests.mesh.storage.conftest import Recorder

URI = "test://model/1/weights.bin"
CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NO_DIGEST = None


class Source:
    """A port's other side: writes CONTENT, or what it is told, and counts how often it was asked."""

    def __init__(self, content: bytes = CONTENT, error: Exception | None = None) -> None:
        self.num_fills = 0
        self.content = content
        self.error = error
        self.filling = asyncio.Event()
        self.may_finish = asyncio.Event()
        self.may_finish.set()

    async def fill(self, staging: Path) -> StagedFile:
        self.num_fills += 1
        path = staging / "part"
        path.write_bytes(self.content[:10])
        self.filling.set()
        await self.may_finish.wait()
        if self.error is not None:
            raise self.error
        path.write_bytes(self.content)
        return StagedFile(path, hashlib.sha256(self.content).hexdigest(), len(self.content))


async def get(root: Path, source: Source, sha256: str | None = DIGEST, timeout_s: float = 30) -> Path:
    return await Cache(root, timeout_s=timeout_s).get_or_fill(
        URI, "weights.bin", sha256=sha256, fill=source.fill, report=lambda stage, done, total: None
    )


async def test_blob_lies_under_its_digest_and_is_filled_once(tmp_path: Path) -> None:
    source = Source()

    paths = [await get(tmp_path, source), await get(tmp_path, source), await get(tmp_path, source, NO_DIGEST)]

    assert set(paths) == {tmp_path / "blobs" / "sha256" / DIGEST / "weights.bin"}
    assert paths[0].read_bytes() == CONTENT
    assert source.num_fills == 1


async def test_concurrent_callers_fill_once(tmp_path: Path) -> None:
    source = Source()

    paths = await asyncio.gather(*(get(tmp_path, source, NO_DIGEST) for _ in range(8)))

    assert len(set(paths)) == 1
    assert source.num_fills == 1


async def test_wrong_digest_names_both_and_the_uri_and_keeps_nothing(
    tmp_path: Path, leftovers: Callable[[Path], list[str]]
) -> None:
    with pytest.raises(CorruptArtifact) as caught:
        await get(tmp_path, Source(), sha256="0" * 64)

    assert all(part in caught.value.message for part in (URI, DIGEST, "0" * 64))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("damage", [CONTENT[:-1], b"", b"X" + CONTENT[1:]])
@pytest.mark.parametrize("sha256", [DIGEST, NO_DIGEST])
async def test_damaged_blob_is_fetched_again(tmp_path: Path, damage: bytes, sha256: str | None) -> None:
    source = Source()
    (await get(tmp_path, source)).write_bytes(damage)

    path = await get(tmp_path, source, sha256)

    assert path.read_bytes() == CONTENT
    assert source.num_fills == 2


async def test_damaged_blob_is_never_given_when_the_source_is_gone(tmp_path: Path) -> None:
    (await get(tmp_path, Source())).write_bytes(CONTENT[:-1])

    with pytest.raises(Unavailable):
        await get(tmp_path, Source(error=Unavailable("no network")))


@pytest.mark.parametrize(
    "index", [b"", b"{", b"[]", b'{"uri": 1}', b'{"uri": "x", "sha256": "../..", "size_bytes": 1}']
)
async def test_index_that_makes_no_sense_is_written_anew(tmp_path: Path, index: bytes) -> None:
    source = Source()
    await get(tmp_path, source)
    (entry,) = (tmp_path / "index").iterdir()
    entry.write_bytes(index)

    assert (await get(tmp_path, source, NO_DIGEST)).read_bytes() == CONTENT
    assert source.num_fills == 2


async def test_new_content_under_an_old_uri_is_found_by_its_digest(tmp_path: Path) -> None:
    await get(tmp_path, Source())
    newer = Source(b"newer weights")

    path = await get(tmp_path, newer, sha256=hashlib.sha256(b"newer weights").hexdigest())

    assert path.read_bytes() == b"newer weights"
    assert await get(tmp_path, newer, NO_DIGEST) == path


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotFound("no such model"), NotFound),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFull),
        (OSError(errno.EIO, "Input/output error"), Unavailable),
    ],
)
async def test_failed_fill_leaves_nothing_and_may_be_tried_again(
    tmp_path: Path, leftovers: Callable[[Path], list[str]], error: Exception, expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        await get(tmp_path, Source(error=error))

    assert leftovers(tmp_path) == []
    assert (await get(tmp_path, Source())).read_bytes() == CONTENT


async def test_cancelled_fill_leaves_nothing_and_lets_the_next_in(
    tmp_path: Path, leftovers: Callable[[Path], list[str]]
) -> None:
    source = Source()
    source.may_finish.clear()
    task = asyncio.create_task(get(tmp_path, source))
    await asyncio.wait_for(source.filling.wait(), 10)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert leftovers(tmp_path) == []
    assert (await get(tmp_path, Source())).read_bytes() == CONTENT


async def test_fill_that_takes_too_long_is_ended(tmp_path: Path, leftovers: Callable[[Path], list[str]]) -> None:
    source = Source()
    source.may_finish.clear()

    with pytest.raises(DeadlineExceeded, match=r"not fetched within 0\.1 s"):
        await get(tmp_path, source, timeout_s=0.1)

    assert leftovers(tmp_path) == []


async def test_staging_left_by_a_dead_process_is_removed_and_that_of_a_living_one_kept(tmp_path: Path) -> None:
    await get(tmp_path, Source())
    dead, living = tmp_path / "staging" / "dead.1", tmp_path / "staging" / "living.1"
    for folder in (dead, living):
        folder.mkdir()
        (folder / "part").write_bytes(b"half")
    deadline = asyncio.get_running_loop().time() + 10

    async with file_lock(tmp_path / "locks" / "living.lock", deadline=deadline, purpose="a test"):
        await get(tmp_path, Source(b"other"), sha256=hashlib.sha256(b"other").hexdigest())

    assert not dead.exists()
    assert (living / "part").exists()


async def test_cached_artifact_is_given_from_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    path = await get(tmp_path, Source())
    for folder in ("locks", "staging"):
        for entry in (tmp_path / folder).iterdir():
            entry.unlink()
        (tmp_path / folder).rmdir()
        (tmp_path / folder).write_bytes(b"not a folder")

    assert await get(tmp_path, Source(), NO_DIGEST) == path


async def test_cache_dir_that_is_a_file_is_named(tmp_path: Path) -> None:
    occupied = tmp_path / "occupied"
    occupied.write_bytes(b"")

    with pytest.raises(Unavailable, match=str(occupied)):
        await get(occupied, Source())


async def test_verify_counts_up_to_the_size(tmp_path: Path, report: Recorder) -> None:
    await get(tmp_path, Source())

    await Cache(tmp_path).get_or_fill(URI, "weights.bin", sha256=DIGEST, fill=Source().fill, report=report)

    assert report.seen == [("resolve", 0, None), ("verify", len(CONTENT), len(CONTENT))]

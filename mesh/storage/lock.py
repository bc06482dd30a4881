"""A lock between processes on one machine: flock(2) on a file that says who holds it.

The kernel drops the lock when its holder dies, so there is no stale lock to break. The file stays when the
lock is released: unlinking it would let two waiters lock two different files of one name. It does not know
what it protects.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from mesh.errors import DeadlineExceeded

_POLL_S = 0.05
_HOLDER_BYTES = 200


@asynccontextmanager
async def file_lock(path: Path, *, deadline: float, purpose: str) -> AsyncIterator[None]:
    """Hold the lock at `path`; wait for it until `deadline` (the loop's clock), then raise DeadlineExceeded.

    Two holders in one process exclude each other too: flock belongs to the open file, not to the process.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            async with asyncio.timeout_at(deadline):
                # No event tells that another process has let go, so this asks again.
                while not _try_lock(descriptor):  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            holder = os.pread(descriptor, _HOLDER_BYTES, 0).decode(errors="replace") or "an unknown process"
            raise DeadlineExceeded(f"no time left to wait for {purpose}: {path} is locked by {holder}") from None
        try:
            _sign(descriptor)
            yield
        finally:
            # Said aloud, because a forked child may hold the descriptor open after we close it.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock inside the block if nobody has it; gives whether it is held. Never waits."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(descriptor: int) -> None:
    holder = f"process {os.getpid()} on {socket.gethostname()}".encode()[:_HOLDER_BYTES]
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, holder, 0)

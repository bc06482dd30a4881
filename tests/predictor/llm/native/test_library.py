"""The compiled kernels as Python calls them: what cannot be loaded or computed is refused, never a crash."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest

from mesh.errors import Internal, Unsupported
from predictor.llm.model_source import open_model
from predictor.llm.native.backend import FlatStep
from predictor.llm.native.library import PHASES, CacheShape, Format, KvFormat, NativeLibrary
from predictor.llm.native.packing import pack_model
from predictor.llm.step import Chunk
from tests.predictor.llm.gguf_files import SmallModel, write_small_model


def test_a_file_that_is_no_library_is_unsupported(tmp_path: Path) -> None:
    (tmp_path / "kernels.so").write_bytes(b"no library")

    with pytest.raises(Unsupported, match="cannot be loaded"):
        NativeLibrary(tmp_path / "kernels.so")


def test_packed_bytes_count_whole_blocks_of_sixteen_rows(library: NativeLibrary) -> None:
    # Per 16 rows and 32 columns: half a byte or a byte each, and 32 bytes of scales, for Q4 also 32 of minima.
    assert library.packed_bytes(Format.Q4, 17, 64) == 2 * 2 * (256 + 64)
    assert library.packed_bytes(Format.Q8, 16, 64) == 2 * (512 + 32)


@pytest.mark.parametrize(
    ("chunk", "num_blocks"),
    [
        (Chunk(0, (266,), 0, (0,)), 4),  # past the vocabulary
        (Chunk(0, (-1,), 0, (0,)), 4),
        (Chunk(0, (5,), 0, (4,)), 4),  # past the cache
        (Chunk(0, (5,), 16, (0, -1)), 4),
        (Chunk(0, (5,), -1, (0,)), 4),
    ],
)
def test_a_step_that_reaches_out_of_bounds_is_refused(
    library: NativeLibrary, tmp_path: Path, chunk: Chunk, num_blocks: int
) -> None:
    path = write_small_model(tmp_path / "small.gguf", SmallModel())
    with open_model(path) as source:
        config = source.read_config()
        with source.open_checkpoint(config, lambda done, total: None) as checkpoint:
            packed = pack_model(library, config, checkpoint, num_threads=1, kv_format=KvFormat.INT8)
    handle = library.new_model(packed.config)
    block_bytes = library.block_bytes(CacheShape(KvFormat.INT8, 16, 2, 16))
    cache = np.zeros(config.num_layers * num_blocks * block_bytes, np.uint8)
    good, bad = FlatStep([Chunk(0, (5,), 0, (0,))]), FlatStep([chunk])
    try:
        library.forward(handle, good.as_structure(cache, num_blocks, 16))
        with pytest.raises(Internal, match="does not exist"):
            library.forward(handle, bad.as_structure(cache, num_blocks, 16))
        with pytest.raises(Internal, match="does not exist"):
            library.logits(
                handle, array("i", [0]), np.empty((1, config.vocab_size), np.float32)
            )  # no logits were asked for
        assert all(library.seconds(handle)[name] > 0 for name in PHASES if name != "lm_head")
    finally:
        library.free_model(handle)

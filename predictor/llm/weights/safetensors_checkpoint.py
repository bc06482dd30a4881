"""The weights of a model folder as a `Checkpoint`: `model.safetensors`, or shards named by an index beside them.

Names and layouts are those the models use, so nothing is translated. Shards are mapped, not read: what a model does
not take costs no memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from mesh.errors import CorruptArtifact, NotFound, Unsupported
from mesh.names import shown
from predictor.llm.weights.gguf import BlockFormat
from predictor.llm.weights.json_object import JsonObject
from predictor.llm.weights.safetensors import SafetensorsFile
from predictor.llm.weights.stored_tensor import StoredTensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 16 << 20
MAX_SHARDS = 1024

_OUTPUT_WEIGHT = "lm_head.weight"
_FORMATS = {"F32": BlockFormat.F32, "F16": BlockFormat.F16, "BF16": BlockFormat.BF16}
# A name in the same folder: neither hidden nor a path.
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors")


class SafetensorsCheckpoint:
    """Takes tensors out of a folder; reports the stored bytes taken so far through `progress`.

    Close it, or use it as a context manager, when the weights are loaded.
    """

    def __init__(
        self,
        folder: Path,
        *,
        has_tied_embeddings: bool,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """has_tied_embeddings: the output matrix is the embedding, even where the folder holds one as well.

        Raises NotFound for a folder without weights, CorruptArtifact, or Unsupported.
        """
        self._progress = progress
        self._files = ExitStack()
        try:
            self._file_of = _open_files(folder, self._files)
        except BaseException:
            self.close()
            raise
        if has_tied_embeddings:
            # Some folders hold a copy, which transformers does not read either.
            self._file_of.pop(_OUTPUT_WEIGHT, None)
        elif _OUTPUT_WEIGHT not in self._file_of:
            self.close()
            raise CorruptArtifact(
                f"{folder.name}: tensor {_OUTPUT_WEIGHT!r} is missing, and config.json does not tie it to the embedding"
            )
        self._done_bytes = 0
        self._total_bytes = sum(file.tensors[name].size_bytes for name, file in self._file_of.items())

    def has(self, name: str) -> bool:
        return name in self._file_of

    def take(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        return self.take_stored(name, shape).to_float32()

    def take_stored(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        file = self._file_of.get(name)
        if file is None:
            raise CorruptArtifact(f"tensor {name!r} is missing: no safetensors file of the model holds it")
        info = file.tensors[name]
        if info.dtype not in _FORMATS:
            raise Unsupported(
                f"{file.name}: tensor {name!r} is stored as {info.dtype}; weights must be {', '.join(_FORMATS)}"
            )
        if info.shape != shape:
            raise CorruptArtifact(
                f"{file.name}: tensor {name!r} has shape {info.shape}; its configuration needs {shape}"
            )
        self._done_bytes += info.size_bytes
        self._progress(self._done_bytes, self._total_bytes)
        return StoredTensor(file.data(name), _FORMATS[info.dtype], shape)

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_files(folder: Path, files: ExitStack) -> dict[str, SafetensorsFile]:
    """Every tensor's file, opened into `files`. A single file wins over an index, as in transformers."""
    if (folder / SINGLE_FILE).is_file():
        single = files.enter_context(SafetensorsFile(folder / SINGLE_FILE))
        return dict.fromkeys(single.tensors, single)
    if not (folder / INDEX_FILE).is_file():
        raise NotFound(f"model folder {folder.name!r} holds neither {SINGLE_FILE} nor {INDEX_FILE}")
    shard_of = _read_index(folder / INDEX_FILE)
    shards = {name: files.enter_context(_open_shard(folder, name)) for name in sorted(set(shard_of.values()))}
    for tensor, name in shard_of.items():
        if tensor not in shards[name].tensors:
            raise CorruptArtifact(f"{INDEX_FILE}: tensor {shown(tensor)} is not in {name}, where the index says it is")
    return {tensor: shards[name] for tensor, name in shard_of.items()}


def _read_index(path: Path) -> dict[str, str]:
    """Tensor → name of its shard, each name one of a file in the same folder."""
    shard_of: dict[str, str] = {}
    for tensor, name in JsonObject.read(path, MAX_INDEX_BYTES).child("weight_map").values.items():
        if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
            raise CorruptArtifact(
                f"{path.name}: tensor {shown(tensor)} is said to be in {shown(str(name))}; "
                "it must be a .safetensors file in the folder"
            )
        shard_of[tensor] = name
    num_shards = len(set(shard_of.values()))
    if not 1 <= num_shards <= MAX_SHARDS:
        raise CorruptArtifact(f"{path.name}: names {num_shards} shards; there must be 1 to {MAX_SHARDS}")
    return shard_of


def _open_shard(folder: Path, name: str) -> SafetensorsFile:
    try:
        return SafetensorsFile(folder / name)
    except NotFound as error:
        raise CorruptArtifact(f"{INDEX_FILE}: the shard {name} that it names does not exist") from error

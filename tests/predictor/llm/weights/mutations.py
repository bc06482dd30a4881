"""Damages model files at random and loads them, in a process whose memory is limited; says what came of it as JSON.

`python -m tests.predictor.llm.weights.mutations PATH FIRST_SEED COUNT`, where PATH is a GGUF file or a model folder. A
process of its own, because torch's allocations show to no tracer: beyond the limit they fail, whoever asks.
"""

from __future__ import annotations

import json
import resource
import shutil
import struct
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from mesh.errors import CorruptArtifact, NotFound, Unsupported
from predictor.llm.loader import load_model
from tests.predictor.llm.logits import all_logits

# What a load may take beyond the libraries that are loaded by then: the models here have less than half a megabyte.
MEMORY_BYTES = 64 << 20

_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 9, 12, 31, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62)
_NUMBERS += ((1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_VALUES: tuple[Any, ...] = (None, True, -1, 0, 1, 1 << 40, 1 << 70, 1e308, "", "x", "Δ" * 300, [], [[]], [1, "a"], {})
_VALUES += ({"type": "Sequence"}, {"a": {"a": {}}})


def damaged(content: bytes, rng: Random, header_bytes: int) -> bytes:
    """A few changes, most of them in the first `header_bytes`: of bytes, of whole numbers, of lengths."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        within = min(len(data), header_bytes if rng.random() < 0.95 else len(data))
        if within < 9:
            break
        place = rng.randrange(within - 8)
        kind = rng.randrange(6)
        if kind == 0:
            data[place] = rng.randrange(256)
        elif kind == 1:
            data[place : place + 8] = struct.pack("<Q", rng.choice(_NUMBERS))
        elif kind == 2:
            data[place : place + 4] = struct.pack("<I", rng.choice(_NUMBERS) % (1 << 32))
        elif kind == 3:
            del data[place : place + rng.choice((1, 4, 8, 100))]
        elif kind == 4:
            data[place:place] = data[place : place + rng.choice((1, 4, 8, 100))]
        elif rng.random() < 0.1:
            del data[place:]
        else:
            # An array of arrays, of a depth that a file has no need of.
            data[place:place] = struct.pack("<IQ", 9, rng.choice((1, 2, 1 << 32))) * rng.choice((1, 3, 50))
    return bytes(data)


def damaged_json(content: bytes, rng: Random) -> bytes:
    """One value of a JSON document replaced, removed or repeated; or its bytes damaged."""
    if rng.random() < 0.3:
        return damaged(content, rng, len(content))
    document = json.loads(content)
    node: Any = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return content
        key = rng.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        if rng.random() < 0.2:
            del node[key]
        else:
            node[key] = rng.choice(_VALUES)
        return json.dumps(document).encode()


def damaged_safetensors(content: bytes, rng: Random) -> bytes:
    """The header's length, or its bytes, or a value in it; then the length fits again."""
    length = 8 + struct.unpack_from("<Q", content)[0]
    if rng.random() < 0.4:
        return damaged(content, rng, length)
    header = damaged_json(content[8:length], rng)
    return struct.pack("<Q", len(header)) + header + content[length:]


def damage_model(original: Path, copy: Path, rng: Random) -> Path:
    """A damaged copy of a file, or of a folder of which one file is damaged."""
    if original.is_file():
        content = original.read_bytes()
        copy.write_bytes(damaged(content, rng, header_length(original)))
        return copy
    shutil.copytree(original, copy, dirs_exist_ok=True)
    file = rng.choice(sorted(path for path in copy.iterdir() if path.suffix in (".json", ".safetensors")))
    damage = damaged_json if file.suffix == ".json" else damaged_safetensors
    file.write_bytes(damage(file.read_bytes(), rng))
    return copy


def header_length(gguf: Path) -> int:
    """Where the weights of an undamaged GGUF file begin."""
    from predictor.llm.weights.gguf import GgufFile

    with GgufFile(gguf) as file:
        return min(info.offset for info in file.tensors.values())


def load_and_use(path: Path) -> None:
    loaded = load_model(path, num_threads=1, dtype="float32")
    loaded.tokenizer.decode(loaded.tokenizer.encode("the dog 12 é", add_special=True))
    all_logits(loaded, [0, loaded.tokenizer.vocab_size - 1, 1])


def outcomes(original: Path, first_seed: int, count: int) -> dict[str, Any]:
    """How often each thing came of a load, the longest time it took, and the first surprises with their seeds."""
    kinds: Counter[str] = Counter()
    surprises: list[str] = []
    slowest_s, slowest_seed = 0.0, -1
    for seed in range(first_seed, first_seed + count):
        with tempfile.TemporaryDirectory() as folder:
            path = damage_model(original, Path(folder) / original.name, Random(seed))
            start = perf_counter()
            try:
                load_and_use(path)
                kinds["loaded"] += 1
            except (CorruptArtifact, Unsupported, NotFound) as error:
                kinds[type(error).__name__] += 1
            except BaseException:  # panics of Rust libraries are no Exceptions
                surprises.append(f"seed {seed}: {traceback.format_exc()[-1500:]}")
            took_s = perf_counter() - start
            if took_s > slowest_s:
                slowest_s, slowest_seed = took_s, seed
    return {"kinds": kinds, "surprises": surprises[:5], "slowest_s": slowest_s, "slowest_seed": slowest_seed}


def limit_memory() -> None:
    in_use_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use_bytes + MEMORY_BYTES,) * 2)


if __name__ == "__main__":
    load_and_use(Path(sys.argv[1]))
    limit_memory()
    sys.stdout.write(json.dumps(outcomes(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))

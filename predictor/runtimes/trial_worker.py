"""The process in which a model file is tried: reads it within limits and says what came of it, if it lives.

Run as `python -m predictor.runtimes.trial_worker MODULE:FUNCTION PATH MEMORY_BYTES CPU_S`. The function takes the path.
Answers on its standard output with {"error": null, "memory_bytes": what the model took} or {"error": a sentence}.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from mesh.errors import MeshError
from predictor.runtimes.left_out import left_out

# XGBoost and LightGBM look for these, and want none of them here; they are 1 s of every start.
_LEFT_OUT = ("sklearn", "pandas", "polars", "pyarrow", "torch", "matplotlib")
_MAX_SENTENCE = 1000


def main(reader: str, path: Path, memory_bytes: int, cpu_s: int) -> None:
    """Try `path` and answer."""
    # Libraries print what they think of a file: our answer has a way of its own.
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        with left_out(*_LEFT_OUT):
            module, _, function = reader.partition(":")
            read: Callable[[Path], object] = getattr(import_module(module), function)
        bound(memory_bytes, cpu_s)
        json.dump(verdict(read, path), answer)


def verdict(read: Callable[[Path], object], path: Path) -> dict[str, object]:
    """What `read(path)` came to."""
    before = resident_bytes()
    try:
        model = read(path)
        taken_bytes = resident_bytes() - before  # while the model is there
        del model
        return {"error": None, "memory_bytes": max(taken_bytes, 0)}
    except MeshError as error:
        return {"error": error.message[:_MAX_SENTENCE]}
    except MemoryError:
        return {"error": f"{path.name} wants more memory than a file of its size may"}
    except Exception as error:  # the top of this process: a reader that fails otherwise has a fault, or met a new one
        return {"error": f"{path.name} cannot be read ({type(error).__name__})", "traceback": traceback.format_exc()}


def bound(memory_bytes: int, cpu_s: int) -> None:
    """Limit what this process may take from now on."""
    virtual_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = virtual_bytes + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def resident_bytes() -> int:
    """Memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

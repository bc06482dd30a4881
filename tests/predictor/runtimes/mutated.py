"""Tries many mutated files, each in a process forked from one that has the library: a hundred a second.

    python -m tests.predictor.runtimes.mutated MODULE:FUNCTION FILE...

Writes a JSON list: of each file what the trial's worker answers, or the status that its process ended with.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from predictor.runtimes.trial_worker import bound, verdict


def mutated(whole: bytes, seed: int) -> bytes:
    """`whole`, cut off somewhere, or with some of its bits, bytes or digits changed."""
    rng = random.Random(seed)
    if seed % 4 == 0:
        return whole[: rng.randrange(len(whole))]
    content = bytearray(whole)
    for _ in range(rng.choice([1, 2, 8, 64])):
        place = rng.randrange(len(content))
        if seed % 4 == 1:
            content[place] ^= 1 << rng.randrange(8)
        elif seed % 4 == 2:
            content[place] = rng.randrange(256)
        elif chr(content[place]).isdigit():  # a text stays well-formed, and says something else
            content[place] = ord(rng.choice("0123456789"))
    return bytes(content)


def outcome_of(read: Callable[[Path], object], path: Path) -> object:
    """As the worker would answer, in a child that may die of it."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        bound(1 << 30, 1)
        os.write(send, json.dumps(verdict(read, path)).encode()[:60_000])
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return json.loads(answer) if status == 0 else {"died": os.waitstatus_to_exitcode(status)}


def main() -> None:
    module, _, function = sys.argv[1].partition(":")
    read = getattr(import_module(module), function)
    sys.stdout.write(json.dumps([outcome_of(read, Path(name)) for name in sys.argv[2:]]))


if __name__ == "__main__":
    main()

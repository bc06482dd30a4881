"""Model classes as users write them, and ways to run them for tests."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from predictor.runtimes.base import Arrays, ModelArtifact
from predictor.runtimes.python.runtime import PythonRuntime

# One input chooses what happens: the class of a user who makes every mistake.
UNRULY = """
import os, signal, sys, time
import numpy as np

class BadInput(ValueError):
    pass

class Unruly:
    inputs = {"word": ("BYTES", [1]), "x": ("FP32", [-1], "optional")}
    outputs = {"said": ("BYTES", [1])}

    def load(self, folder):
        self.num_calls = 0

    def infer(self, inputs):
        self.num_calls += 1
        word, _, rest = inputs["word"][0].decode().partition(" ")
        said = getattr(self, word)(rest)
        return said if isinstance(said, dict) else {"said": np.array([str(said).encode()], dtype=object)}

    def say(self, rest): return rest
    def calls(self, rest): return self.num_calls
    def pid(self, rest): return os.getpid()
    def cwd(self, rest): return os.getcwd()
    def environ(self, rest): return sorted(os.environ)
    def variable(self, rest): return os.environ.get(rest)
    def modules(self, rest): return rest in sys.modules
    def show(self, rest): print(rest); print("to stderr", file=sys.stderr); return "shown"
    def leave(self, rest): os._exit(int(rest))
    def segfault(self, rest): os.kill(os.getpid(), signal.SIGSEGV)
    def hog(self, rest): return len(np.ones(int(rest), np.uint8))
    def hang(self, rest): time.sleep(3600)
    def fail(self, rest): raise RuntimeError("secret " + rest)
    def refuse(self, rest): raise BadInput("no such thing: " + rest)
    def mistype(self, rest): return {"said": np.zeros(1)}
    def nap(self, rest):
        open(rest + ".began", "w").close()
        while not os.path.exists(rest):
            time.sleep(0.005)
        return "woke"
"""

COUNTDOWN = """
import numpy as np

class Countdown:
    inputs = {"n": ("INT64", [1])}
    outputs = {"left": ("INT64", [1])}

    async def infer(self, inputs):
        return {"left": inputs["n"] - inputs["n"]}

    async def infer_stream(self, inputs):
        try:
            for left in range(int(inputs["n"][0]) - 1, -1, -1):
                yield {"left": np.array([left])}
                if left == 13:
                    raise RuntimeError("thirteen")
        finally:
            print("closed")
"""


def folder_with(folder: Path, source: str) -> Path:
    """A model folder whose model.py is `source`."""
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(textwrap.dedent(source))
    return folder


class HealthLog:
    """Takes what a runtime says of its health."""

    def __init__(self) -> None:
        self.told: list[tuple[bool, str]] = []

    def __call__(self, is_healthy: bool, reason: str) -> None:
        self.told.append((is_healthy, reason))


async def load(runtime: PythonRuntime, folder: Path, on_health: HealthLog | None = None, **options: str) -> None:
    artifact = ModelArtifact("m", "1", folder, "0" * 64, {"restart_delay_s": "0", **options}, may_run_code=True)
    await runtime.load(artifact, lambda *progress: None, on_health or HealthLog())


@asynccontextmanager
async def running(folder: Path, on_health: HealthLog | None = None, **options: str) -> AsyncIterator[PythonRuntime]:
    """A loaded runtime, unloaded afterwards."""
    runtime = PythonRuntime()
    try:
        await load(runtime, folder, on_health, **options)
        yield runtime
    finally:
        await runtime.unload()


def word(text: str) -> Arrays:
    """The input of UNRULY."""
    return {"word": np.array([text.encode()], dtype=object)}


async def said(runtime: PythonRuntime, text: str) -> str:
    """What UNRULY answers."""
    answer: bytes = (await runtime.infer(word(text)))["said"][0]
    return answer.decode()

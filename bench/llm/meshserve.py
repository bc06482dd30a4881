"""MeshServe as a contender: the whole local mesh through its gateway, with drafts and without, and the predictor."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.engine_steps import SMOLLM2_SHA256, SMOLLM2_URI
from bench.llm.answer import Client
from bench.llm.contender import MODEL, Contender
from bench.llm.grpc_client import GrpcClient
from bench.llm.openai_client import OpenAIClient
from bench.server_process import Command
from deploy.local.run_info import read_run_info
from deploy.local.state_dir import StateDir
from mesh.version import software_version

# Only the language model: what `meshserve up` serves beside it by default would count as its memory and start.
DEPLOYMENTS = f"""deployments:
  - name: {MODEL}
    predictor:
      model_format: llm
      storage_uri: {SMOLLM2_URI}
      sha256: {SMOLLM2_SHA256}
      model_version: "1"
    transformer:
      steps: [chat_template]
"""
# The same, with one token a sequence and step: what drafts bring hangs on how much a text repeats itself.
DEPLOYMENTS_WITHOUT_DRAFTS = DEPLOYMENTS.replace(
    "    transformer:", "      options: {speculation: 'off'}\n    transformer:"
)
GATEWAY, PREDICTOR = "MeshServe", "MeshServe, predictor alone"
WITHOUT_DRAFTS = "MeshServe, no drafts"
_QUALITY = "Q4_1, int8 groups of 32"


def contenders() -> list[Contender]:
    """The ways to MeshServe; they are always there."""
    return [
        Contender(
            GATEWAY,
            _QUALITY,
            "OpenAI HTTP",
            software_version(),
            _gateway_command,
            _gateway_client,
            note="`meshserve up` as it is: gateway, transformer, predictor, explainer, registry; requests are recorded",
            is_ours=True,
        ),
        Contender(
            WITHOUT_DRAFTS,
            _QUALITY,
            "OpenAI HTTP",
            software_version(),
            lambda port, folder: _gateway_command(port, folder, DEPLOYMENTS_WITHOUT_DRAFTS),
            _gateway_client,
            note="the same with `speculation: off`",
            is_ours=True,
        ),
        Contender(
            PREDICTOR,
            _QUALITY,
            "gRPC",
            software_version(),
            _predictor_command,
            _predictor_client,
            note="`python -m predictor`, asked over its own gRPC service",
            is_ours=True,
        ),
    ]


def _gateway_command(port: int, folder: Path, deployments: str = DEPLOYMENTS) -> Command:
    del port  # the mesh needs many, and picks free ones itself
    state = ("--state-dir", str(folder / "state"), "--free-ports")
    return Command(
        (sys.executable, "-m", "cli", "up", *state, "--deployments", str(_deployments_file(folder, deployments)))
    )


def _gateway_client(port: int, folder: Path) -> Client | None:
    del port
    info = read_run_info(StateDir(folder / "state"))
    return None if info is None else OpenAIClient(info.gateway_url, MODEL)


def _predictor_command(port: int, folder: Path) -> Command:
    ports = ("--grpc-port", str(port), "--metrics-port", "0", "--ready-file", str(folder / "ready.json"))
    files = ("--deployments", str(_deployments_file(folder, DEPLOYMENTS)), "--state-dir", str(folder / "state"))
    return Command((sys.executable, "-m", "predictor", *ports, *files))


def _predictor_client(port: int, folder: Path) -> Client | None:
    try:
        json.loads((folder / "ready.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return GrpcClient(f"127.0.0.1:{port}", MODEL)


def _deployments_file(folder: Path, deployments: str) -> Path:
    path = folder / "mesh.yaml"
    path.write_text(deployments, encoding="utf-8")
    return path

"""MLServer with an identity model, in the server's own process: its workers cost more than they bring to two cores."""

from __future__ import annotations

import json
from pathlib import Path

from bench.oip.contender import Contender, Setup
from bench.peers.environment import install as install_environment
from bench.peers.environment import python_of
from bench.server_process import Command, free_port

VERSION = "1.7.1"
_ENVIRONMENT = "mlserver"
_MODEL = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Identity(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        array = NumpyCodec.decode_input(payload.inputs[0])
        outputs = [NumpyCodec.encode_output("y", array)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
"""


def install() -> None:
    """Make the environment: 350 MB."""
    install_environment(_ENVIRONMENT, (f"mlserver=={VERSION}",))


def contender() -> Contender:
    return Contender(
        "MLServer",
        VERSION,
        _setup,
        fronts=("gRPC", "REST"),
        note="`mlserver start`, parallel_workers 0",
        is_installed=python_of(_ENVIRONMENT).exists(),
    )


def _setup(folder: Path) -> Setup:
    rest, grpc = free_port(), free_port()
    settings = {
        "http_port": rest,
        "grpc_port": grpc,
        "metrics_port": free_port(),
        "host": "127.0.0.1",
        "parallel_workers": 0,
        "debug": False,
        "grpc_max_message_length": 64 << 20,
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    model = {"name": "identity", "implementation": "identity_model.Identity", "parameters": {"version": "1"}}
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    (folder / "identity_model.py").write_text(_MODEL, encoding="utf-8")
    start = f"import sys; sys.path.insert(0, {str(folder)!r}); from mlserver.cli import main; main()"
    return Setup(
        {"server": Command((str(python_of(_ENVIRONMENT)), "-c", start, "start", str(folder)))}, (grpc,), (rest,)
    )

"""KServe's Python server with an identity model, written as its documentation has a custom predictor."""

from __future__ import annotations

from pathlib import Path

from bench.oip.contender import Contender, Setup
from bench.peers.environment import install as install_environment
from bench.peers.environment import python_of
from bench.server_process import Command, free_port

VERSION = "0.21.0"
_ENVIRONMENT = "kserve"
_PROGRAM = """
import uuid
from kserve import InferOutput, InferResponse, Model, ModelServer


class Identity(Model):
    def __init__(self):
        super().__init__("identity")
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        output = InferOutput("y", payload.inputs[0].shape, "FP32")
        output.set_data_from_numpy(payload.inputs[0].as_numpy(), binary_data=False)
        return InferResponse(str(uuid.uuid4()), "identity", [output])


ModelServer().start([Identity()])
"""


def install() -> None:
    """Make the environment: 400 MB."""
    install_environment(_ENVIRONMENT, (f"kserve=={VERSION}",))


def contender() -> Contender:
    return Contender(
        "KServe",
        VERSION,
        _setup,
        fronts=("gRPC", "REST"),
        note="`kserve.ModelServer`, one process",
        is_installed=python_of(_ENVIRONMENT).exists(),
    )


def _setup(folder: Path) -> Setup:
    program = folder / "program.py"
    program.write_text(_PROGRAM, encoding="utf-8")
    rest, grpc = free_port(), free_port()
    ports = ("--http_port", str(rest), "--grpc_port", str(grpc), "--enable_latency_logging", "false")
    sizes = [f"--grpc_max_{way}_message_length={64 << 20}" for way in ("send", "receive")]
    return Setup({"server": Command((str(python_of(_ENVIRONMENT)), str(program), *ports, *sizes))}, (grpc,), (rest,))

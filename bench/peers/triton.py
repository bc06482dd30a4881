"""Triton with its Python backend and an identity model: the server that the wheel of PyTriton brings.

Without a CUDA driver this build loses the bytes of tensors on their way to the backend and back: the model sees zeros,
the answer's data is empty, and REST, which has to write them as JSON, answers 500. So it is not checked, it takes part
by gRPC only, and its figures are those of an easier task than the others'.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from bench.oip.contender import Contender, Setup
from bench.peers import PEERS
from bench.peers.environment import install as install_environment
from bench.server_process import Command, free_port

VERSION = "0.7.0"  # PyTriton's
_ENVIRONMENT = "triton"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_PACKAGES = PEERS / _ENVIRONMENT / "lib" / f"python{_PYTHON}" / "site-packages"
_TRITON = _PACKAGES / "pytriton" / "tritonserver"
_SERVER = _TRITON / "bin" / "tritonserver"
_CONFIG = """name: "identity"
backend: "python"
max_batch_size: 0
input [{ name: "x" data_type: TYPE_FP32 dims: [-1, 16] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1, 16] }]
instance_group [{ kind: KIND_CPU }]
"""
_MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(request, "x").as_numpy())]
            )
            for request in requests
        ]
"""


def install() -> None:
    """Make the environment, 250 MB, and put the backend's program for this Python where the server looks for it."""
    install_environment(_ENVIRONMENT, (f"nvidia-pytriton=={VERSION}",))
    stub = _TRITON / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    for program in (_SERVER, Path(shutil.copy2(stub, _TRITON / "backends" / "python"))):
        program.chmod(0o755)


def contender() -> Contender:
    return Contender(
        "Triton, Python backend",
        VERSION,
        _setup,
        fronts=("gRPC", "stream"),
        note="`tritonserver` of the nvidia-pytriton wheel; without a CUDA driver its tensors arrive empty",
        is_installed=(_TRITON / "backends" / "python" / "triton_python_backend_stub").exists(),
        is_checked=False,
    )


def _setup(folder: Path) -> Setup:
    model = folder / "models" / "identity"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(_CONFIG, encoding="utf-8")
    (model / "1" / "model.py").write_text(_MODEL, encoding="utf-8")
    rest, grpc = free_port(), free_port()
    libraries = f"{_PACKAGES / 'nvidia_pytriton.libs'}:{Path(sys.base_prefix) / 'lib'}"
    # The backend's process runs this Python; it finds numpy in the environment's packages.
    environment = {"LD_LIBRARY_PATH": libraries, "PYTHONPATH": str(_PACKAGES), "PYTHONHOME": sys.base_prefix}
    flags = {
        "--model-repository": str(model.parent),
        "--backend-directory": str(_TRITON / "backends"),
        "--http-address": "127.0.0.1",
        "--http-port": str(rest),
        "--grpc-address": "127.0.0.1",
        "--grpc-port": str(grpc),
        "--allow-metrics": "false",
        "--log-info": "false",
    }
    return Setup(
        {"server": Command((str(_SERVER), *(f"{name}={value}" for name, value in flags.items())), environment)},
        (grpc,),
    )

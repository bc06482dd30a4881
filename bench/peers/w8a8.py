"""The model with int8 weights, one scale per output channel, in the format of compressed-tensors, as vLLM reads it.

Activations become int8 while it runs, one scale per token. Rounding to nearest, without calibration: nothing here can
be tuned, so nothing is. The embedding, which is the output layer too, stays in bfloat16.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench.peers import MODELS
from bench.peers.checkpoint import make_bf16

W8A8 = MODELS / "smollm2-w8a8"

_INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**_INT8, "strategy": "channel", "dynamic": False},
            "input_activations": {**_INT8, "strategy": "token", "dynamic": True},
        }
    },
}


def make_w8a8() -> Path:
    """The folder; made from the bfloat16 one when it is not there."""
    if not (W8A8 / "model.safetensors").exists():
        quantize(make_bf16(), W8A8)
    return W8A8


def quantize(source: Path, target: Path) -> None:
    """Write the model of folder `source` to folder `target` with its linear layers in int8."""
    tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            weight = tensor.float()  # [out, in]
            scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
            tensors[name] = (weight / scale).round().clamp(-127, 127).to(torch.int8)
            tensors[f"{name}_scale"] = scale.bfloat16()
        else:
            tensors[name] = tensor
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.suffix in {".json", ".jinja"}:
            shutil.copy(path, target)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = QUANTIZATION
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})

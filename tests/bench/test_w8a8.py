"""The quantized checkpoint, of a model of two layers, against what its numbers stand for."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench.peers.w8a8 import quantize


def test_int8_times_scale_is_within_half_a_step_of_each_weight(tmp_path: Path) -> None:
    source, target = tmp_path / "bf16", tmp_path / "w8a8"
    source.mkdir()
    weight = torch.randn(12, 32, generator=torch.Generator().manual_seed(7)).bfloat16()
    weight[3] = 0
    save_file(
        {"model.layers.0.mlp.up_proj.weight": weight, "model.norm.weight": torch.ones(32)},
        source / "model.safetensors",
    )
    (source / "config.json").write_text('{"model_type": "llama"}')

    quantize(source, target)

    tensors = load_file(target / "model.safetensors")
    quants, scale = (tensors[f"model.layers.0.mlp.up_proj.weight{suffix}"] for suffix in ("", "_scale"))
    assert (quants.dtype, scale.shape) == (torch.int8, (12, 1))
    # A scale in bfloat16 is itself off by up to 2**-9.
    error = (quants.float() * scale.float() - weight.float()).abs()
    assert bool((error <= scale.float() * (0.5 + 127 * 2**-9)).all())
    assert torch.equal(tensors["model.norm.weight"], torch.ones(32))
    config = json.loads((target / "config.json").read_text())
    assert config["model_type"] == "llama" and config["quantization_config"]["format"] == "int-quantized"

"""The benchmark's GGUF model as a Hugging Face folder in bfloat16, for peers that read no GGUF.

The weights are those of the file, dequantized by transformers: every contender computes with the same model.
"""

from __future__ import annotations

from pathlib import Path

from bench.engine_steps import smollm2
from bench.peers import MODELS

BF16 = MODELS / "smollm2-bf16"


def make_bf16() -> Path:
    """The folder; made when it is not there, which takes a minute. Needs transformers, accelerate and gguf."""
    if (BF16 / "model.safetensors").exists():
        return BF16
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = smollm2()
    packed = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
    # transformers saves no model that it read from a GGUF file, so its tensors go into one that it did not.
    del packed.config.quantization_config
    with torch.device("meta"):
        plain = type(packed)(packed.config)
    plain.load_state_dict(packed.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(BF16)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(BF16)
    return BF16

"""The oracle: a GGUF file as transformers loads and runs it, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def transformers_model(path: Path) -> Any:  # transformers' models have no useful types
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()

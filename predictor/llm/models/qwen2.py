"""Qwen2 and Qwen2.5 (Yang et al., 2024): Llama's shape with biases on q, k and v."""

from __future__ import annotations

from typing import ClassVar

from predictor.llm.models.llama import LlamaModel


class Qwen2Model(LlamaModel):
    """See `LanguageModel` for the contract."""

    has_qkv_bias: ClassVar[bool] = True

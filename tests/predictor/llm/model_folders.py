"""Writes small Hugging Face model folders with `transformers`: random weights, real layouts, trained tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Encoder
from tokenizers.models import BPE
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}
VOCAB_SIZE = 400
CORPUS = (
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 4,
    "def f(x):\n    return x ** 2  # 1234567890\n",
    "Ein häßlicher Fußgängerüberweg über die Straße; naïve café.",
)
CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def write_folder(
    folder: Path,
    model_type: str = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    changes: Mapping[str, Any] | None = None,  # fields of the configuration
) -> Path:
    """Weights, configuration and a byte-level tokenizer; norms and biases are random as well, so that they count."""
    config_class, model_class = FAMILIES[model_type]
    shape: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
    }
    torch.manual_seed(7)
    model = model_class(config_class(**(shape | dict(changes or {}))))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape) if name.endswith("weight") else torch.randn(1))
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    write_tokenizer(folder, byte_level_encoder())
    return folder


def write_tokenizer(folder: Path, encoder: Encoder, **settings: Any) -> Any:  # transformers' tokenizers have no types
    """Saved as transformers saves it; returns transformers' tokenizer."""
    tokenizer = PreTrainedTokenizerFast(
        **({"tokenizer_object": encoder, "bos_token": "<s>", "eos_token": "</s>", "chat_template": CHATML} | settings)
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


SPECIAL_TOKENS = [AddedToken(text, normalized=False, special=True) for text in ("<s>", "</s>", "<|im_end|>")]


def byte_level_encoder(num_tokens: int = 380) -> Encoder:
    """Trained as GPT-2's: every byte is a token, nothing is put in front."""
    encoder = Encoder(BPE())
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    encoder.train_from_iterator(CORPUS, trainer)
    encoder.add_tokens([AddedToken("<tool>", normalized=False)])
    return encoder


def sentencepiece_encoder() -> Encoder:
    """As Llama 2's: ▁ for a space and one in front, a token for every byte, `<s>` at the beginning."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("o", "g"), ("d", "og"), ("▁", "dog"), ("e", "r"), ("ü", "b")]
    tokens = ["<unk>", "<s>", "</s>", *byte_tokens, *"▁abcdefghijklmnoprstuvwxyzäöüß.,"]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    encoder = Encoder(BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    encoder.add_special_tokens(SPECIAL_TOKENS)
    encoder.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    encoder.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    encoder.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return encoder

"""Writes small GGUF models with the `gguf` package: random weights, real layouts, a byte-level tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("t h", "Ġ a", "e r", "th e", "Ġ t", "a n", "1 2")


@dataclass(frozen=True)
class SmallModel:
    """Shape of a random decoder. `extra_metadata` overrides what the writer would write, by full key.

    tokenizer: llama.cpp's name for the kind of vocabulary; "llama" takes the same tokens as SentencePiece's pieces.
    """

    architecture: str = "llama"
    num_layers: int = 2
    hidden_size: int = 64
    intermediate_size: int = 96
    num_heads: int = 4
    num_kv_heads: int = 2
    max_context_tokens: int = 512
    rope_theta: float = 10_000.0
    tied: bool = True
    quantization: gguf.GGMLQuantizationType | None = None
    seed: int = 0
    without_tensors: tuple[str, ...] = ()
    tokenizer: str = "gpt2"
    extra_metadata: Mapping[str, str | int | float] = field(default_factory=dict)


def byte_alphabet() -> list[str]:
    """GPT-2's 256 stand-ins for bytes, as `transformers` defines them."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return list(bytes_to_unicode().values())


def vocabulary() -> list[str]:
    return [*SPECIAL_TOKENS, *byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES)]


def write_small_model(path: Path, model: SmallModel) -> Path:
    """The whole model at `path`; q and k hold random numbers, so any row order is as good as llama.cpp's."""
    writer = gguf.GGUFWriter(path, model.architecture)
    _write_metadata(writer, model)
    for name, array in _tensors(model).items():
        if name in model.without_tensors:
            continue
        if model.quantization is not None and array.ndim == 2:
            blocks = gguf.quants.quantize(array, model.quantization)
            writer.add_tensor(name, blocks, raw_dtype=model.quantization)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_metadata(writer: gguf.GGUFWriter, model: SmallModel) -> None:
    tokens = vocabulary()
    arch = model.architecture
    values: dict[str, str | int | float] = {
        f"{arch}.block_count": model.num_layers,
        f"{arch}.context_length": model.max_context_tokens,
        f"{arch}.embedding_length": model.hidden_size,
        f"{arch}.feed_forward_length": model.intermediate_size,
        f"{arch}.attention.head_count": model.num_heads,
        f"{arch}.attention.head_count_kv": model.num_kv_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.freq_base": model.rope_theta,
        f"{arch}.vocab_size": len(tokens),
        "tokenizer.ggml.model": model.tokenizer,
        "tokenizer.ggml.pre": "smollm" if arch == "llama" else arch,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}",
    }
    values.update(model.extra_metadata)
    add: dict[type, Callable[[str, object], None]] = {
        str: writer.add_string,
        int: writer.add_uint32,
        float: writer.add_float32,
    }
    for key, value in values.items():
        add[type(value)](key, value)
    writer.add_array("tokenizer.ggml.tokens", tokens)
    writer.add_array("tokenizer.ggml.token_type", [3] * len(SPECIAL_TOKENS) + [1] * (len(tokens) - len(SPECIAL_TOKENS)))
    if model.tokenizer == "gpt2":
        writer.add_array("tokenizer.ggml.merges", list(MERGES))
    else:
        writer.add_array("tokenizer.ggml.scores", [-float(i) for i in range(len(tokens))])


def _tensors(model: SmallModel) -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(model.seed)
    hidden, inner, vocab = model.hidden_size, model.intermediate_size, len(vocabulary())
    kv_size = hidden // model.num_heads * model.num_kv_heads

    def matrix(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def vector(size: int) -> npt.NDArray[np.float32]:
        return rng.uniform(0.5, 1.5, size).astype(np.float32)

    tensors = {"token_embd.weight": matrix(vocab, hidden) * 8, "output_norm.weight": vector(hidden)}
    if not model.tied:
        tensors["output.weight"] = matrix(vocab, hidden) * 8
    for layer in range(model.num_layers):
        outputs = {"attn_q": hidden, "attn_k": kv_size, "attn_v": kv_size, "attn_output": hidden}
        tensors |= {f"blk.{layer}.{name}.weight": matrix(rows, hidden) for name, rows in outputs.items()}
        if model.architecture == "qwen2":
            biased = {name: rows for name, rows in outputs.items() if name != "attn_output"}
            tensors |= {f"blk.{layer}.{name}.bias": vector(rows) - 1 for name, rows in biased.items()}
        tensors |= {
            f"blk.{layer}.ffn_gate.weight": matrix(inner, hidden),
            f"blk.{layer}.ffn_up.weight": matrix(inner, hidden),
            f"blk.{layer}.ffn_down.weight": matrix(hidden, inner),
            f"blk.{layer}.attn_norm.weight": vector(hidden),
            f"blk.{layer}.ffn_norm.weight": vector(hidden),
        }
    return tensors

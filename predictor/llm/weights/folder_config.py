"""`config.json` of a model folder as a `ModelConfig`, in the words of Llama, Mistral and Qwen2.

Refuses what would load and then answer wrongly: a value that changes the computation and that the models here do not
know is an error that names it. Reads the keys of transformers 4 and 5, which moved the rotary ones.
"""

from __future__ import annotations

from pathlib import Path

from mesh.errors import CorruptArtifact, Unsupported
from mesh.names import shown
from predictor.llm.models.config import MAX_DIMENSION, ModelConfig, check_config
from predictor.llm.weights.json_object import JsonObject

MAX_CONFIG_BYTES = 1 << 20

# What transformers takes for a key that config.json leaves out.
_DEFAULT_ROPE_THETA = 10_000.0
_DEFAULT_RMS_NORM_EPS = 1e-6
# Keys that change the computation → the only value that the models here compute.
_EXPECTED_NUMBERS = {"partial_rotary_factor": 1.0}
_EXPECTED_FLAGS = {"attention_bias": False, "mlp_bias": False}
_PLAIN_ROPE_TYPES = ("default", "none")


def read_config_file(folder: Path) -> JsonObject:
    """The folder's `config.json`. Raises NotFound or CorruptArtifact."""
    return JsonObject.read(folder / "config.json", MAX_CONFIG_BYTES)


def parse_config(config_file: JsonObject) -> ModelConfig:
    """The configuration in a `config.json`. Raises CorruptArtifact or Unsupported."""
    _check_supported(config_file)
    rope = _rope_parameters(config_file)
    num_heads = _dimension(config_file, "num_attention_heads")
    hidden_size = _dimension(config_file, "hidden_size")
    config = ModelConfig(
        architecture=config_file.string("model_type"),
        num_layers=_dimension(config_file, "num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=_dimension(config_file, "intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=_dimension(config_file, "num_key_value_heads", num_heads),
        head_dim=_dimension(config_file, "head_dim", hidden_size // num_heads),
        vocab_size=_dimension(config_file, "vocab_size"),
        max_context_tokens=_max_context_tokens(config_file),
        rms_norm_eps=config_file.number("rms_norm_eps", _DEFAULT_RMS_NORM_EPS),
        rope_theta=rope.number("rope_theta", config_file.number("rope_theta", _DEFAULT_ROPE_THETA)),
    )
    check_config(config, config_file.source)
    return config


def has_tied_embeddings(config_file: JsonObject) -> bool:
    """Whether the output matrix is the embedding. Llama's, Mistral's and Qwen2's default is that it is not."""
    return config_file.boolean("tie_word_embeddings", False)


def _dimension(config_file: JsonObject, key: str, default: int | None = None) -> int:
    value = config_file.integer(key, default)
    if not 1 <= value <= MAX_DIMENSION:
        raise CorruptArtifact(
            f"{config_file.source}: {key!r} is {value}; it must be between 1 and {MAX_DIMENSION}", field=key
        )
    return value


def _max_context_tokens(config_file: JsonObject) -> int:
    """Up to the length of its window, sliding attention is full attention; beyond it is not computed here."""
    limit = _dimension(config_file, "max_position_embeddings")
    # Qwen2 states a window and then says that it does not use it; Mistral has no such switch.
    if config_file.has("sliding_window") and config_file.boolean("use_sliding_window", True):
        return min(limit, _dimension(config_file, "sliding_window"))
    return limit


def _rope_parameters(config_file: JsonObject) -> JsonObject:
    """`rope_parameters` of transformers 5, or `rope_scaling` of 4; Unsupported unless they scale nothing."""
    rope = config_file.child("rope_parameters" if config_file.has("rope_parameters") else "rope_scaling")
    kind = rope.string("rope_type", rope.string("type", "default"))
    if kind not in _PLAIN_ROPE_TYPES:
        raise Unsupported(f"{config_file.source}: rope scaling {shown(kind)} is not supported; only 'default' is")
    return rope


def _check_supported(config_file: JsonObject) -> None:
    activation = config_file.string("hidden_act", "silu")
    if activation != "silu":
        raise Unsupported(f"{config_file.source}: activation {shown(activation)} is not supported; only 'silu' is")
    if config_file.has("quantization_config"):
        method = config_file.child("quantization_config").string("quant_method", "unnamed")
        raise Unsupported(
            f"{config_file.source}: quantization {shown(method)} is not supported; use GGUF for small weights"
        )
    found: dict[str, tuple[float, float]] = {
        key: (config_file.number(key, expected), expected) for key, expected in _EXPECTED_NUMBERS.items()
    }
    found |= {key: (config_file.boolean(key, expected), expected) for key, expected in _EXPECTED_FLAGS.items()}
    for key, (value, expected) in found.items():
        if value != expected:
            raise Unsupported(f"{config_file.source}: {key!r} {value} is not supported; only {expected} is", field=key)

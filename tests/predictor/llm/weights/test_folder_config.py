"""`config.json`: what transformers writes is read as transformers reads it; what is not computed here is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, LlamaConfig, MistralConfig, Qwen2Config

from mesh.errors import CorruptArtifact, NotFound, Unsupported
from predictor.llm.models.config import ModelConfig
from predictor.llm.weights.folder_config import has_tied_embeddings, parse_config, read_config_file
from predictor.llm.weights.json_object import JsonObject

SMALL = {
    "model_type": "llama",
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def parse(**changes: Any) -> ModelConfig:  # Any: values of JSON
    return parse_config(JsonObject(SMALL | changes, "config.json"))


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(num_key_value_heads=8, rope_parameters={"rope_theta": 5e5, "rope_type": "default"}),
        LlamaConfig(head_dim=80, rms_norm_eps=1e-5, tie_word_embeddings=True),
        MistralConfig(sliding_window=None),
        Qwen2Config(num_key_value_heads=4),
    ],
    ids=lambda config: config.model_type,
)
def test_what_transformers_writes_means_what_it_says(tmp_path: Path, config: Any) -> None:
    config.save_pretrained(tmp_path)
    reference = AutoConfig.from_pretrained(tmp_path)

    file = read_config_file(tmp_path)

    assert parse_config(file) == ModelConfig(
        architecture=reference.model_type,
        num_layers=reference.num_hidden_layers,
        hidden_size=reference.hidden_size,
        intermediate_size=reference.intermediate_size,
        num_heads=reference.num_attention_heads,
        num_kv_heads=reference.num_key_value_heads,
        head_dim=getattr(reference, "head_dim", None) or reference.hidden_size // reference.num_attention_heads,
        vocab_size=reference.vocab_size,
        max_context_tokens=reference.max_position_embeddings,
        rms_norm_eps=reference.rms_norm_eps,
        rope_theta=reference.rope_parameters["rope_theta"],
    )
    assert has_tied_embeddings(file) == reference.tie_word_embeddings


def test_what_is_left_out_has_the_default_of_transformers() -> None:
    config = parse()

    assert (config.num_kv_heads, config.head_dim) == (4, 16)
    assert (config.rms_norm_eps, config.rope_theta) == (1e-6, 10_000.0)
    assert not has_tied_embeddings(JsonObject(SMALL, "config.json"))


def test_the_rotary_keys_of_transformers_4_are_read() -> None:
    assert parse(rope_theta=1e6, rope_scaling=None).rope_theta == 1e6
    assert parse(rope_theta=1e6, rope_scaling={"type": "default"}).rope_theta == 1e6


def test_a_sliding_window_that_is_used_bounds_the_context() -> None:
    assert parse(sliding_window=128).max_context_tokens == 128
    assert parse(sliding_window=128, use_sliding_window=False).max_context_tokens == 512
    assert parse(sliding_window=None).max_context_tokens == 512


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling 'linear' is not supported"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope scaling 'yarn' is not supported; only 'default' is"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope scaling 'llama3' is not supported"),
        ({"hidden_act": "gelu"}, "activation 'gelu' is not supported; only 'silu' is"),
        ({"attention_bias": True}, "'attention_bias' True is not supported; only False is"),
        ({"mlp_bias": True}, "'mlp_bias' True is not supported"),
        ({"partial_rotary_factor": 0.5}, "'partial_rotary_factor' 0.5 is not supported; only 1.0 is"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization 'gptq' is not supported"),
    ],
)
def test_what_would_answer_wrongly_is_unsupported(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Unsupported) as caught:
        parse(**changes)

    assert message in caught.value.message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "config.json: 'hidden_size' is 0; it must be between 1 and 16777216"),
        ({"vocab_size": 1 << 40}, "'vocab_size' is 1099511627776"),
        ({"num_hidden_layers": "many"}, "'num_hidden_layers' is of type str; it must be an integer"),
        ({"num_hidden_layers": None}, "'num_hidden_layers' is missing"),
        ({"num_attention_heads": 128}, "'head_dim' is 0"),
        ({"num_key_value_heads": 3}, "4 attention heads are no multiple of 3 KV heads"),
        ({"head_dim": 15}, "head dimension 15 is odd"),
        ({"rope_theta": 0}, "rope base 0.0 must be positive"),
        ({"rms_norm_eps": -1}, "norm epsilon -1.0 not negative"),
        ({"rope_parameters": []}, "'rope_parameters' is of type list; it must be an object"),
    ],
)
def test_numbers_that_do_not_fit_are_corrupt(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptArtifact) as caught:
        parse(**changes)

    assert message in caught.value.message


def test_a_folder_without_configuration_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="model file 'config.json' does not exist"):
        read_config_file(tmp_path)

    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    assert parse_config(read_config_file(tmp_path)) == parse()

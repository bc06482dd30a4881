"""`config.json` of an encoder's folder as an `EncoderConfig`, in the words of BERT and RoBERTa.

Refuses what would load and then answer wrongly. Sizes are only numbers here: nothing is allocated by them, since each
tensor's shape is compared with the weights' own index before it is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.errors import CorruptArtifact, Unsupported
from mesh.names import shown
from predictor.llm.models.config import MAX_DIMENSION
from predictor.llm.weights.json_object import JsonObject

MAX_CONFIG_BYTES = 4 << 20
MAX_LAYERS = 1024
MAX_LABELS = 100_000

BERT = "bert"
# RoBERTa's kin count positions from the padding token's id on, and know no token types in their tokenizers.
ROBERTA_FAMILY = ("roberta", "xlm-roberta", "camembert")
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")

_DEFAULT_LAYER_NORM_EPS = 1e-12
_ROBERTA_PAD_ID = 1


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Checked when read: all counts are positive, and num_heads divides hidden_size.

    num_positions: rows of the position table; the first `first_position` of them are never used.
    num_labels: of a classifier's head, if the folder has one.
    """

    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    vocab_size: int
    num_positions: int
    first_position: int
    num_token_types: int
    layer_norm_eps: float
    activation: str
    num_labels: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def max_tokens(self) -> int:
        """The longest text that there are positions for, in tokens."""
        return self.num_positions - self.first_position

    @property
    def has_token_types(self) -> bool:
        """Whether the second of two texts is marked as such."""
        return self.architecture == BERT


def parse_config(config_file: JsonObject) -> EncoderConfig:
    """The configuration in a `config.json`. Raises CorruptArtifact or Unsupported."""
    architecture = config_file.string("model_type")
    if architecture not in (BERT, *ROBERTA_FAMILY):
        known = ", ".join((BERT, *ROBERTA_FAMILY))
        raise Unsupported(
            f"{config_file.source}: model type {shown(architecture)} is no encoder here; known are {known}"
        )
    _check_supported(config_file)
    first_position = 0
    if architecture in ROBERTA_FAMILY:
        first_position = _size(config_file, "pad_token_id", _ROBERTA_PAD_ID, low=0) + 1
    config = EncoderConfig(
        architecture=architecture,
        num_layers=_size(config_file, "num_hidden_layers", high=MAX_LAYERS),
        hidden_size=_size(config_file, "hidden_size"),
        intermediate_size=_size(config_file, "intermediate_size"),
        num_heads=_size(config_file, "num_attention_heads"),
        vocab_size=_size(config_file, "vocab_size"),
        num_positions=_size(config_file, "max_position_embeddings"),
        first_position=first_position,
        num_token_types=_size(config_file, "type_vocab_size", 2),
        layer_norm_eps=config_file.number("layer_norm_eps", _DEFAULT_LAYER_NORM_EPS),
        activation=config_file.string("hidden_act", "gelu"),
        num_labels=_num_labels(config_file),
    )
    if config.hidden_size % config.num_heads:
        raise CorruptArtifact(
            f"{config_file.source}: hidden_size {config.hidden_size} is no multiple of {config.num_heads} heads"
        )
    if config.max_tokens < 1:
        raise CorruptArtifact(f"{config_file.source}: no position is left of {config.num_positions}")
    return config


def _check_supported(config_file: JsonObject) -> None:
    activation = config_file.string("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise Unsupported(
            f"{config_file.source}: activation {shown(activation)} is not supported; known are {', '.join(ACTIVATIONS)}"
        )
    kind = config_file.string("position_embedding_type", "absolute")
    if kind != "absolute":
        raise Unsupported(
            f"{config_file.source}: positions of kind {shown(kind)} are not supported; only absolute ones"
        )
    if config_file.boolean("is_decoder", False):
        raise Unsupported(f"{config_file.source}: is_decoder is true; only encoders are served by this runtime")


def _size(
    config_file: JsonObject, key: str, default: int | None = None, *, low: int = 1, high: int = MAX_DIMENSION
) -> int:
    value = config_file.integer(key, default)
    if not low <= value <= high:
        raise CorruptArtifact(f"{config_file.source}: {key!r} is {value}; it must be {low} to {high}", field=key)
    return value


def _num_labels(config_file: JsonObject) -> int:
    """As transformers has it: the names of the labels count them; without names there are two."""
    if config_file.has("id2label"):
        num_labels = len(config_file.child("id2label").values)
        if not 1 <= num_labels <= MAX_LABELS:
            raise CorruptArtifact(
                f"{config_file.source}: 'id2label' has {num_labels} labels; 1 to {MAX_LABELS} are taken"
            )
        return num_labels
    return _size(config_file, "num_labels", 2, high=MAX_LABELS)

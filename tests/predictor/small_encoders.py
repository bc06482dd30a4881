"""Small random encoders in folders, as `transformers` and sentence-transformers save them, and its own answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any  # transformers has no types

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SENTENCE = "the quick brown fox jumps over a lazy dog and cat names colours of france paris capital is what"
WORDS = SENTENCE.split()
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.25,
}
TEXTS = (
    "the capital of france is paris",
    "",
    "What?",
    "a lazy dog",
    "the quick brown fox jumps over a lazy dog and cat",
    "a lazy cat",
    "Names  of colours, 漢 and é!",
)


def write_encoder(folder: Path, kind: str = "bert", *, num_labels: int | None = None, **changes: Any) -> Path:
    """kind: bert or roberta. num_labels: with a classifier's head. changes: to the configuration."""
    torch.manual_seed(7)
    tokenizer = bert_tokenizer() if kind == "bert" else roberta_tokenizer()
    config_class, plain, classifier = _CLASSES[kind]
    labels = {} if num_labels is None else {"num_labels": num_labels}
    config = config_class(**(SIZES | {"vocab_size": tokenizer.get_vocab_size()} | labels | changes))
    model = (plain if num_labels is None else classifier)(config).eval()
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_sentence_files(
    folder: Path, *, pooling: str = "pooling_mode_mean_tokens", normalize: bool = True, max_tokens: int = 16
) -> Path:
    """The files of sentence-transformers beside an encoder."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, pooling: True})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    return folder


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def hidden_states(folder: Path, texts: Sequence[str], max_tokens: int = 512) -> list[NDArray[np.float32]]:
    """What `transformers` computes of each text alone: [num_tokens, hidden_size]."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    return [model(**_inputs(folder, text, None, max_tokens)).last_hidden_state[0].detach().numpy() for text in texts]


def logits(folder: Path, pairs: Sequence[tuple[str, str]], max_tokens: int = 512) -> NDArray[np.float32]:
    """What `transformers` computes of each pair alone: [pairs, num_labels]."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    rows = [model(**_inputs(folder, first, second, max_tokens)).logits.detach().numpy() for first, second in pairs]
    return np.concatenate(rows)


def _inputs(folder: Path, first: str, second: str | None, max_tokens: int) -> dict[str, torch.Tensor]:
    """Tokens by the plain `tokenizers` library, without the limits of the training."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    encoding = tokenizer.encode(first.strip(), None if second is None else second.strip())
    ids = {"input_ids": torch.tensor([encoding.ids])}
    is_bert = json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    return ids | ({"token_type_ids": torch.tensor([encoding.type_ids])} if is_bert else {})


def bert_tokenizer() -> Tokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*special, *WORDS, *"?!,", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # As MiniLM's own file has it: limits of the training, which must not act.
    tokenizer.enable_padding(length=12)
    tokenizer.enable_truncation(5)
    return tokenizer


def roberta_tokenizer() -> Tokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


_CLASSES: dict[str, tuple[Any, Any, Any]] = {
    "bert": (transformers.BertConfig, transformers.BertModel, transformers.BertForSequenceClassification),
    "roberta": (
        transformers.RobertaConfig,
        transformers.RobertaModel,
        transformers.RobertaForSequenceClassification,
    ),
}

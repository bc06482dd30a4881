"""What sentence-transformers writes beside a model: which modules follow the encoder, and how long a text may be.

A folder without these files is a plain encoder. What would change the vectors and is not computed here is refused by
name. Format: `modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json` of sentence-transformers 2 to 5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import CorruptArtifact, Unsupported
from mesh.names import shown
from predictor.encoder.pooling import POOLINGS
from predictor.llm.weights.json_object import JsonObject, read_bounded

MAX_FILE_BYTES = 1 << 20

_MODULES = "modules.json"
_PROMPTS = "config_sentence_transformers.json"
_SETTINGS = tuple(f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "xlm-roberta", "camembert"))
# A folder beside modules.json, as "1_Pooling": neither hidden nor a path.
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
# The flag that turns a mode on → our name of it. The flags that are not here must be off.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class SentenceFiles:
    """What the files say; the defaults are sentence-transformers' own for a folder without them.

    max_tokens: of one text, None when no file says so. lower_case: texts are lower-cased before they are cut.
    """

    pooling: str = "mean"
    is_normalized: bool = False
    max_tokens: int | None = None
    lower_case: bool = False


def read_sentence_files(folder: Path, hidden_size: int) -> SentenceFiles:
    """Raises CorruptArtifact for what makes no sense, and Unsupported for modules that are not computed here."""
    settings = next((name for name in _SETTINGS if (folder / name).is_file()), _SETTINGS[0])
    lengths = JsonObject.read_optional(folder / settings, MAX_FILE_BYTES)
    max_tokens = lengths.integer("max_seq_length") if lengths.has("max_seq_length") else None
    if max_tokens is not None and max_tokens < 1:
        raise CorruptArtifact(f"{lengths.source}: 'max_seq_length' is {max_tokens}; it must be at least 1")
    _check_no_prompt(JsonObject.read_optional(folder / _PROMPTS, MAX_FILE_BYTES))
    modules = _modules(folder)
    pooling_folder = next((path for kind, path in modules if kind == "Pooling"), None)
    return SentenceFiles(
        pooling="mean" if pooling_folder is None else _pooling(folder / pooling_folder, hidden_size),
        is_normalized=any(kind == "Normalize" for kind, _ in modules),
        max_tokens=max_tokens,
        lower_case=lengths.boolean("do_lower_case", False),
    )


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(kind, folder) of the modules in their order; empty without a modules.json."""
    if not (folder / _MODULES).is_file():
        return []
    # The file is a JSON list; the reader of objects checks the rest.
    content = b'{"modules": ' + read_bounded(folder / _MODULES, MAX_FILE_BYTES) + b"}"
    modules = []
    for entry in JsonObject.parse(content, _MODULES).array("modules"):
        if not isinstance(entry, dict):
            raise CorruptArtifact(f"{_MODULES}: a module is no object")
        module = JsonObject(entry, _MODULES)
        kind, path = module.string("type").rpartition(".")[2], module.string("path", "")
        if path and not _FOLDER.fullmatch(path):
            raise CorruptArtifact(f"{_MODULES}: path {shown(path)} is no folder beside the file")
        modules.append((kind, path))
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise Unsupported(
            f"{_MODULES}: modules {', '.join(shown(kind) for kind in kinds[:8])} are not supported; "
            "only Transformer, Pooling and then Normalize are"
        )
    return modules


def _pooling(folder: Path, hidden_size: int) -> str:
    if not (folder / "config.json").is_file():
        raise CorruptArtifact(f"{_MODULES}: names {folder.name}/config.json, which does not exist")
    settings = JsonObject.read(folder / "config.json", MAX_FILE_BYTES)
    source = f"{folder.name}/{settings.source}"
    dimension = settings.integer("word_embedding_dimension", settings.integer("embedding_dimension", hidden_size))
    if dimension != hidden_size:
        raise CorruptArtifact(f"{source}: pools vectors of {dimension} numbers; the encoder's have {hidden_size}")
    modes = [mode for flag, mode in _FLAGS.items() if settings.boolean(flag, False)]
    if settings.has("pooling_mode"):
        modes = [settings.string("pooling_mode")]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        asked = ", ".join(shown(mode) for mode in modes[:8]) or "none"
        raise Unsupported(f"{source}: pooling {asked} is not supported; it must be one of {', '.join(POOLINGS)}")
    return modes[0]


def _check_no_prompt(settings: JsonObject) -> None:
    """A prompt that is put before every text; those that a caller chooses by name are the caller's to write."""
    if settings.has("default_prompt_name"):
        name = settings.string("default_prompt_name")
        raise Unsupported(f"{settings.source}: default prompt {shown(name)} is not supported; texts go in as they are")

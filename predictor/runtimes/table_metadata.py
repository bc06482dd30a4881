"""`metadata.json` beside a model of tables: names of features and classes, and a row to compare with.

All of it is optional. The lists become parameters of the model's configuration, where explainers read them. Knows no
library of models.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mesh.errors import CorruptArtifact

METADATA_FILE = "metadata.json"
MAX_METADATA_BYTES = 1 << 20

_KINDS: dict[str, tuple[type, ...]] = {
    "feature_names": (str,),
    "feature_baseline": (int, float),
    "feature_datatypes": (str,),
    "class_names": (str,),
}
FEATURE_DATATYPES = ("FP64", "INT64", "BOOL", "BYTES")


@dataclass(frozen=True, slots=True)
class TableMetadata:
    """What is known of a table's columns and of its classes; an empty tuple for what is not.

    feature_baseline: a usual row, for explanations: the training means, say. feature_datatypes: of FEATURE_DATATYPES,
    for rows that are not all numbers.
    """

    feature_names: tuple[str, ...] = ()
    feature_baseline: tuple[float, ...] = ()
    feature_datatypes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    def named(self, feature_names: tuple[str, ...]) -> TableMetadata:
        """With the model's own names for its features, unless the file has others."""
        return self if self.feature_names else replace(self, feature_names=feature_names)

    def check(self, *, num_features: int, num_classes: int) -> None:
        """Raise CorruptArtifact unless every list fits the model; `num_classes` is 0 where there are none."""
        for name in ("feature_names", "feature_baseline", "feature_datatypes"):
            if (count := len(getattr(self, name))) not in (0, num_features):
                raise CorruptArtifact(
                    f"{METADATA_FILE}: '{name}' has {count} entries; the model takes {num_features} features"
                )
        if num_classes and len(self.class_names) not in (0, num_classes):
            raise CorruptArtifact(
                f"{METADATA_FILE}: 'class_names' has {len(self.class_names)} entries; the model has {num_classes} "
                "classes"
            )

    def parameters(self) -> dict[str, str]:
        """The lists that are not empty, as JSON."""
        return {name: json.dumps(values) for name, values in asdict(self).items() if values}


def read_table_metadata(path: Path) -> TableMetadata:
    """Of a model's folder; of a model that is a single file there is none. Raises CorruptArtifact."""
    file = path / METADATA_FILE
    if not file.is_file():
        return TableMetadata()
    if file.stat().st_size > MAX_METADATA_BYTES:
        raise CorruptArtifact(f"{METADATA_FILE} has {file.stat().st_size} bytes; at most {MAX_METADATA_BYTES}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CorruptArtifact(f"{METADATA_FILE} is no JSON: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise CorruptArtifact(f"{METADATA_FILE} must hold a JSON object")
    lists = {name: _list_of(name, content[name]) for name in _KINDS if content.get(name) is not None}
    unknown = next((one for one in lists.get("feature_datatypes", ()) if one not in FEATURE_DATATYPES), None)
    if unknown is not None:
        raise CorruptArtifact(
            f"{METADATA_FILE}: 'feature_datatypes' has {unknown[:64]!a}; valid are {', '.join(FEATURE_DATATYPES)}"
        )
    return TableMetadata(**lists)


def _refuse_constant(literal: str) -> float:
    raise ValueError(f"{literal} is no JSON number")


def _list_of(name: str, values: Any) -> tuple[Any, ...]:
    # type() and not isinstance(): True is no number here.
    if not isinstance(values, list) or any(type(value) not in _KINDS[name] for value in values):
        kind = "texts" if str in _KINDS[name] else "numbers"
        raise CorruptArtifact(f"{METADATA_FILE}: '{name}' must be a list of {kind}")
    return tuple(values)

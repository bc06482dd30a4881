"""Which file of an artifact is the model: the artifact itself, or one in its folder.

The names are those of KServe and MLServer. Does not know what is in the file; the runtime that reads it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mesh.errors import CorruptArtifact


def find_model_file(path: Path, suffixes: Sequence[str]) -> Path:
    """`path` when it is a file; of a folder, `model` with the first of `suffixes` there is, else its one file with any.

    Raises CorruptArtifact when there is none, or several that could be meant.
    """
    if path.is_file():
        return path
    for suffix in suffixes:
        if (named := path / f"model{suffix}").is_file():
            return named
    wanted = ", ".join(f"model{suffix}" for suffix in suffixes)
    # A metadata.json is never the model, though a model may be JSON.
    found = sorted(
        file for file in path.glob("*") if file.suffix in suffixes and file.is_file() and file.name != "metadata.json"
    )
    if not found:
        raise CorruptArtifact(f"the model folder '{path.name}' has none of {wanted}")
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:8])
        raise CorruptArtifact(f"the model folder '{path.name}' has {names}; name one of them {wanted}")
    return found[0]

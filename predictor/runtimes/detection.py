"""Which model format is meant by an address alone, by the names that its files have.

For `--model name=uri`, where nobody says the format. Knows names, not contents, save for the one name that two formats
share.
"""

from __future__ import annotations

from pathlib import Path

from predictor.runtimes import FORMATS_BY_FOLDER, FORMATS_BY_SUFFIX

_DEFAULT = "sklearn"
_LIGHTGBM_START = b"tree\n"


def detect_format(uri: str) -> str:
    """The model format of a file, wherever it is, or of a folder on this machine, by what lies in it."""
    path = Path(uri.removeprefix("file://"))
    if path.is_dir():
        for pattern, model_format in FORMATS_BY_FOLDER.items():
            if any(path.glob(pattern)):
                return model_format
        files = (file for file in sorted(path.iterdir()) if file.name != "metadata.json")
        return next((found for file in files if (found := _of_file(file))), _DEFAULT)
    return _of_file(path) or _DEFAULT


def _of_file(path: Path) -> str | None:
    if path.suffix == ".bst" and path.is_file():  # KServe's name for both
        with path.open("rb") as file:
            return "lightgbm" if file.read(len(_LIGHTGBM_START)) == _LIGHTGBM_START else "xgboost"
    return FORMATS_BY_SUFFIX.get(path.suffix)

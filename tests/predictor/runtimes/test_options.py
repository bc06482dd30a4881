"""Options of a runtime, from the texts of a deployment."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mesh.errors import InvalidInput
from predictor.runtimes.options import read_options


@dataclass(frozen=True)
class Options:
    size: int = 3
    share: float = 0.5
    name: str = "x"
    is_on: bool = False


def test_texts_become_the_fields_types() -> None:
    assert read_options({"size": "7", "share": "0.25", "name": "y", "is_on": "True"}, Options) == Options(
        7, 0.25, "y", True
    )
    assert read_options({}, Options) == Options()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sice": "7"}, "option 'sice' is unknown; known are is_on, name, share, size"),
        ({"size": "7.5"}, "option 'size' is '7.5'; it must be of type int"),
        ({"is_on": "yes"}, "option 'is_on' is 'yes'; it must be of type bool"),
    ],
)
def test_what_is_wrong_is_named(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        read_options(options, Options)

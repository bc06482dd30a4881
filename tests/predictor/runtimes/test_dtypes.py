"""Two tables of datatypes, held to each other."""

from __future__ import annotations

from mesh.tensors import DATATYPES
from predictor.runtimes.dtypes import DTYPES


def test_the_dtypes_are_those_of_the_protocol() -> None:
    assert {name: datatype.dtype for name, datatype in DATATYPES.items()} == DTYPES

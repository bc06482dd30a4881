"""The table of errors: every class has one code, and a code that comes back over the wire is the same class."""

from __future__ import annotations

from mesh import errors
from mesh.errors import Code, MeshError


def subclasses(cls: type[MeshError]) -> set[type[MeshError]]:
    return {cls, *(leaf for child in cls.__subclasses__() for leaf in subclasses(child))}


def test_docstring_draws_every_error_of_the_module() -> None:
    drawn = errors.__doc__ or ""
    own = {cls for cls in subclasses(MeshError) if cls.__module__ == errors.__name__}

    lines = {line.split()[-3]: line.split()[-2:] for line in drawn.splitlines() if "──" in line}

    assert set(lines) == {cls.__name__ for cls in own - {MeshError}}
    for cls in own - {MeshError}:
        error = cls("x")
        assert lines[cls.__name__] == [error.code.name, str(error.http_status)]


def test_numbers_and_names_are_those_of_grpc() -> None:
    import grpc

    assert {code.name: code.number for code in Code} == {
        status.name: status.value[0] for status in grpc.StatusCode if status.name in Code.__members__
    }


def test_code_number_comes_back_as_an_error_of_that_code() -> None:
    for code in Code:
        error = errors.from_code_number(code.number, "why")

        assert (error.code, error.message) == (code, "why")


def test_unknown_code_is_internal() -> None:
    assert isinstance(errors.from_code_number(99, "why"), errors.MeshError)
    assert errors.from_code_number(99, "why").code is Code.INTERNAL


def test_sentence_that_quotes_half_a_surrogate_pair_fits_every_wire() -> None:
    assert errors.InvalidInput("unknown '\ud800'").message.encode() == b"unknown '?'"

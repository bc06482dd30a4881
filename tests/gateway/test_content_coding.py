"""Packing and unpacking, within the limit whatever the packed bytes say."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.content_coding import UnknownCoding, accepted_coding, coding_of, pack, unpack
from mesh.errors import InvalidInput, MessageTooLarge

MIB = 1 << 20


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=4))
def test_members_one_after_another_are_one_body(members: list[bytes]) -> None:
    packed = b"".join(gzip.compress(member) for member in members)

    assert unpack("gzip", packed, 1 << 20) == b"".join(members)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3 * MIB])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_any_size_comes_back(coding: str, size: int) -> None:
    body = os.urandom(size // 2) + bytes(size - size // 2)
    compress = gzip.compress if coding == "gzip" else zlib.compress

    assert unpack(coding, compress(body), size) == body


def test_limit_holds_while_unpacking() -> None:
    bomb = gzip.compress(bytes(200 * MIB))
    tracemalloc.start()

    with pytest.raises(MessageTooLarge, match="1048576 bytes"):
        unpack("gzip", bomb, MIB)

    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8 * MIB


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", b"{}"),
        ("gzip", gzip.compress(b"{}")[:-1]),
        ("gzip", gzip.compress(b"{}") + b"more"),
        ("gzip", gzip.compress(b"{}")[:-8] + bytes(8)),
        ("gzip", zlib.compress(b"{}")),
        ("deflate", gzip.compress(b"{}")),
        ("deflate", zlib.compress(b"{}") + b"more"),
        ("deflate", zlib.compress(b"{}")[:-1]),
    ],
)
def test_what_is_not_packed_as_it_says_is_invalid(coding: str, packed: bytes) -> None:
    with pytest.raises(InvalidInput):
        unpack(coding, packed, MIB)


@given(st.sampled_from(["gzip", "deflate"]), st.binary(max_size=200))
def test_any_bytes_unpack_or_are_invalid(coding: str, packed: bytes) -> None:
    with suppress(InvalidInput, MessageTooLarge):
        assert len(unpack(coding, packed, 100)) <= 100


def test_names_of_codings() -> None:
    assert [coding_of(name) for name in (None, "", "identity", "GZIP", " x-gzip", "deflate")] == [
        None, None, None, "gzip", "gzip", "deflate",
    ]  # fmt: skip
    with pytest.raises(UnknownCoding, match="'br' is not known") as raised:
        coding_of("br")
    assert raised.value.http_status == 415


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("br, zstd", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("gzip;q=0", None),
        ("gzip;q=0, *", "deflate"),
        ("*", "gzip"),
        ("GZip ; q=1.0", "gzip"),
        ("gzip;q=much", None),
    ],
)
def test_client_says_what_it_takes(header: str | None, coding: str | None) -> None:
    assert accepted_coding(header) == coding


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_parts_are_packed_as_one(coding: str) -> None:
    parts = [b'{"a": 1}', memoryview(bytes(100_000))]

    packed = pack(coding, parts)

    assert packed is not None
    assert unpack(coding, packed, MIB) == b"".join(parts)


@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_what_does_not_shrink_stays_as_it_is(size: int) -> None:
    assert pack("gzip", [b"{}" * 10, os.urandom(size)]) is None

"""What is a name, an address, a digest, a URI; and that what is not says why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidInput
from mesh.names import check_address, check_name, check_sha256, check_text, check_uri, shown


@pytest.mark.parametrize("name", ["a", "iris", "smollm2-135m", "a.b_c-d", "0", "x" * 63])
def test_names(name: str) -> None:
    assert check_name(name, "name") == name


@pytest.mark.parametrize("name", ["", "A", "a/b", "-a", "a-", ".a", "a b", "a\n", "а", "ｉris", "a\u200bb", "x" * 64])
def test_not_names(name: str) -> None:
    with pytest.raises(InvalidInput, match="^model"):
        check_name(name, "model")


@given(st.text())
def test_sentence_about_any_text_is_short_printable_ascii(text: str) -> None:
    try:
        check_name(text, "name")
    except InvalidInput as error:
        assert error.message.isascii()
        assert error.message.isprintable()
        assert len(error.message) < 600


@pytest.mark.parametrize("address", ["127.0.0.1:1", "host:65535", "[::1]:8090", "a.b.svc.cluster.local:80"])
def test_addresses(address: str) -> None:
    assert check_address(address, "address") == address


@pytest.mark.parametrize("address", ["", "host", "host:", ":80", "host:0", "host:65536", "host:８", "h t:1", "h\n:1"])
def test_not_addresses(address: str) -> None:
    with pytest.raises(InvalidInput, match="is not host:port"):
        check_address(address, "address")


def test_digest_is_lower_case_hexadecimal_or_nothing() -> None:
    assert check_sha256("", "sha256") == ""
    assert check_sha256("0f" * 32, "sha256") == "0f" * 32
    for digest in ("0F" * 32, "0f" * 31, "zz" * 32):
        with pytest.raises(InvalidInput, match="64 lower-case"):
            check_sha256(digest, "sha256")


def test_uri_has_a_scheme_and_a_limit() -> None:
    assert check_uri("file:///a b", "uri") == "file:///a b"
    for uri in ("", "a/b", "file:/a", "file://", "file:///a\nb", "file:///" + "x" * 3000):
        with pytest.raises(InvalidInput):
            check_uri(uri, "uri")


def test_text_limit_says_both_numbers() -> None:
    with pytest.raises(InvalidInput, match="has 5 characters; the limit is 4"):
        check_text("12345", "text", 4)


def test_long_text_is_cut() -> None:
    assert shown("x" * 100) == "'" + "x" * 40 + "...'"

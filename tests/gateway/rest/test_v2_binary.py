"""Where JSON ends and tensors begin, and what a wrong header or size is told."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.rest.v2_binary import AnswerForm, BinaryData, BinaryResponse, flag, split_body
from mesh.errors import InvalidInput


def test_tensors_are_cut_in_order_and_not_copied() -> None:
    body = b'{"a":1}12345'

    text, data = split_body(body, "7")

    assert bytes(text) == b'{"a":1}'
    first, second = data.take(2, "inputs[0]"), data.take(3, "inputs[1]")
    assert (bytes(first), bytes(second)) == (b"12", b"345")
    assert first.obj is body
    data.check_all_taken()


def test_body_without_the_header_is_json_as_a_whole() -> None:
    text, data = split_body(b"{}", None)

    assert text == b"{}"
    data.check_all_taken()
    with pytest.raises(InvalidInput, match="no header Inference-Header-Content-Length"):
        data.take(4, "inputs[0]")


@pytest.mark.parametrize("header", ["", "-1", "+1", "1.0", "one", "1e1", "²", " 1", "9" * 30, "0", "3"])
def test_wrong_header_is_named(header: str) -> None:
    with pytest.raises(InvalidInput, match="Inference-Header-Content-Length"):
        split_body(b"{}", header)


@pytest.mark.parametrize("size", [-1, 1.5, "4", True, None, [4], 10**30])
def test_wrong_size_is_named(size: Any) -> None:
    data = BinaryData(memoryview(b"1234"))

    with pytest.raises(InvalidInput, match=r"inputs\[0\].binary_data_size"):
        data.take(size, "inputs[0]")


def test_bytes_missing_or_left_over_are_counted() -> None:
    data = BinaryData(memoryview(b"1234"))
    data.take(3, "inputs[0]")

    with pytest.raises(InvalidInput, match="is 2, but 1 bytes are left"):
        data.take(2, "inputs[1]")
    with pytest.raises(InvalidInput, match="1 bytes are left behind the last tensor"):
        data.check_all_taken()


def test_an_outputs_own_word_counts_more_than_the_requests() -> None:
    form = AnswerForm(by_default=True, by_output={"y": False})

    assert (form.is_binary("x"), form.is_binary("y"), form.may_be_binary) == (True, False, True)
    assert not AnswerForm(by_output={"y": False}).may_be_binary


def test_flag_is_true_or_false() -> None:
    assert flag({"binary_data": True}, "binary_data", "outputs[0]") is True
    assert flag({}, "binary_data", "outputs[0]") is None
    with pytest.raises(InvalidInput, match=r"outputs\[0\].binary_data must be true or false"):
        flag({"binary_data": 1}, "binary_data", "outputs[0]")


async def test_response_writes_its_parts_as_they_are() -> None:
    tensor = memoryview(b"12345678")
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("a response has nothing to receive")

    await BinaryResponse(b"{}", [tensor])({"type": "http"}, receive, send)

    start, head, body, end = sent
    headers = dict(start["headers"])
    assert (headers[b"content-length"], headers[b"inference-header-content-length"]) == (b"10", b"2")
    assert headers[b"content-type"] == b"application/octet-stream"
    assert head["body"] == b"{}"
    assert body["body"] is tensor
    assert not end["more_body"]

"""Frames: what goes in comes out, for every datatype; what does not fit is refused before it is allocated."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from predictor.runtimes.dtypes import DTYPES
from predictor.runtimes.python import frames
from predictor.runtimes.python.frames import Frame, FrameError, NamedArray


def received(buffers: list[bytes | memoryview]) -> Frame:
    """As a peer that reads exactly what the prefix says."""
    content = b"".join(buffers)
    header_bytes, body_bytes = frames.sizes(content[: frames.PREFIX.size])
    assert len(content) == frames.PREFIX.size + header_bytes + body_bytes
    header = content[frames.PREFIX.size : frames.PREFIX.size + header_bytes]
    return frames.decode(header, np.frombuffer(content[frames.PREFIX.size + header_bytes :], np.uint8))


def header_of(*entries: list[Any]) -> bytes:
    return json.dumps({"kind": "answer", "arrays": entries}).encode()


@given(st.data())
def test_arrays_of_every_datatype_come_out_as_they_went_in(data: st.DataObject) -> None:
    sent = []
    for index, datatype in enumerate(data.draw(st.lists(st.sampled_from(sorted(DTYPES)), max_size=4))):
        shape = data.draw(arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
        if datatype == "BYTES":
            elements = data.draw(st.lists(st.binary(max_size=9), min_size=125, max_size=125))
            array = np.array([*elements, None], dtype=object)[: int(np.prod(shape))].reshape(shape)
        else:
            array = data.draw(arrays_of.arrays(DTYPES[datatype], shape))
        sent.append(NamedArray(f"tensor {index} ☃", datatype, array))

    frame = received(frames.encode({"do": "infer"}, sent))

    assert frame.message == {"do": "infer"}
    assert list(frame.arrays) == [named.name for named in sent]
    for named in sent:
        np.testing.assert_array_equal(frame.arrays[named.name], named.array)
        assert frame.arrays[named.name].dtype == named.array.dtype
        assert frame.arrays[named.name].shape == named.array.shape


def test_a_large_array_is_sent_from_where_it_lies() -> None:
    array = np.arange(1 << 20, dtype=np.float32)
    array.flags.writeable = False

    buffers = frames.encode({}, [NamedArray("x", "FP32", array)])

    assert any(isinstance(buffer, memoryview) and np.shares_memory(np.asarray(buffer), array) for buffer in buffers)


def test_a_strided_array_is_sent_in_order() -> None:
    array = np.arange(12, dtype=np.int64).reshape(3, 4).T[::2]

    frame = received(frames.encode({}, [NamedArray("x", "INT64", array)]))

    np.testing.assert_array_equal(frame.arrays["x"], array)


@pytest.mark.parametrize(
    ("header_bytes", "body_bytes"), [(frames.MAX_HEADER_BYTES + 1, 0), (10, frames.MAX_BODY_BYTES + 1)]
)
def test_sizes_beyond_the_limit_are_refused_unread(header_bytes: int, body_bytes: int) -> None:
    with pytest.raises(FrameError, match="at most"):
        frames.sizes(frames.PREFIX.pack(header_bytes, body_bytes))


def test_a_message_beyond_the_limit_is_not_sent() -> None:
    with pytest.raises(FrameError, match="at most"):
        frames.encode({"traceback": "x" * frames.MAX_HEADER_BYTES})


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[]",
        b"{}",
        header_of(["x"]),
        header_of(["x", "FP99", [1], 0, 4]),
        header_of(["x", "FP32", [2], 0, 4]),
        header_of(["x", "FP32", [1], 6, 4]),
        header_of(["x", "FP32", [1], 64, 4]),
        header_of(["x", "FP32", [-1], 0, 4]),
        header_of(["x", "FP32", "1", 0, 4]),
        header_of(["x", "BYTES", [9], 0, 8]),
        header_of(["x", "BYTES", [1], 0, 8]),
        header_of(["x", "BYTES", [1], 4, 8]),
    ],
)
def test_a_header_that_does_not_fit_its_body_is_refused(header: bytes) -> None:
    with pytest.raises(FrameError):
        frames.decode(header, np.array([9, 0, 0, 0, 0, 0, 0, 0], np.uint8))

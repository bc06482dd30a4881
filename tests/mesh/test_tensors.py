"""Tensors of the Open Inference Protocol: round trips, and every malformed tensor of the outcomes table."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import (
    DATATYPES,
    Tensor,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)

TYPED = [name for name, datatype in DATATYPES.items() if datatype.contents_field is not None]
NUMERIC = [name for name in DATATYPES if name != "BYTES"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def bf16_values(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Floats that a bfloat16 holds exactly: any 16 bits, as the upper half of a float32."""
    return hnp.arrays("<u2", shape).map(lambda bits: (bits.astype("<u4") << 16).view("<f4"))


@st.composite
def tensors(draw: st.DrawFn, names: list[str]) -> Tensor:
    datatype = draw(st.sampled_from(names))
    shape = draw(SHAPES)
    if datatype == "BYTES":
        array = np.empty(shape, dtype=object)
        array[...] = b""
        for index in np.ndindex(shape):
            array[index] = draw(st.binary(max_size=6))
    elif datatype == "BF16":
        array = draw(bf16_values(shape))
    else:
        array = draw(hnp.arrays(DATATYPES[datatype].dtype, shape))
    return Tensor("x", datatype, array)


def request_with(
    shape: list[int], datatype: str = "FP32", raw: bytes | None = None, **contents: Any
) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    if raw is not None:
        request.raw_input_contents.append(raw)
    if contents:
        request.inputs[0].contents.CopyFrom(oip.InferTensorContents(**contents))
    return request


def decode_one(request: oip.ModelInferRequest) -> np.ndarray[Any, Any]:
    return decode_request(request)["x"].array


def assert_same(actual: Tensor, expected: Tensor) -> None:
    assert actual.datatype == expected.datatype
    assert actual.array.shape == expected.array.shape
    assert actual.array.dtype == DATATYPES[expected.datatype].dtype
    np.testing.assert_array_equal(actual.array, expected.array)


@given(tensors(list(DATATYPES)))
def test_raw_round_trip_is_exact(tensor: Tensor) -> None:
    request = oip.ModelInferRequest()

    encode_request(request, [tensor], raw=True)

    assert not request.inputs[0].HasField("contents")
    assert_same(decode_request(oip.ModelInferRequest.FromString(request.SerializeToString()))["x"], tensor)


@given(tensors(TYPED))
def test_typed_round_trip_is_exact(tensor: Tensor) -> None:
    response = oip.ModelInferResponse()

    encode_response(response, [tensor], raw=False)

    assert not response.raw_output_contents
    assert_same(decode_response(oip.ModelInferResponse.FromString(response.SerializeToString()))["x"], tensor)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_make_an_answer_raw_even_when_the_request_was_typed(datatype: str) -> None:
    response = oip.ModelInferResponse()
    half = Tensor("half", datatype, np.array([1.5, -2.0], dtype=DATATYPES[datatype].dtype))
    whole = Tensor("whole", "INT64", np.array([7]))

    encode_response(response, [whole, half], raw=False)

    assert len(response.raw_output_contents) == 2
    assert decode_response(response)["whole"].array.tolist() == [7]
    assert decode_response(response)["half"].array.tolist() == [1.5, -2.0]


@given(hnp.arrays(np.float32, 8))
def test_bf16_is_rounded_to_nearest_even_and_keeps_nan_and_infinity(values: np.ndarray[Any, Any]) -> None:
    request = oip.ModelInferRequest()

    encode_request(request, [Tensor("x", "BF16", values)])

    for value, got in zip(values.tolist(), decode_one(request).tolist(), strict=True):
        if np.isnan(value):
            assert np.isnan(got)
            continue
        lower, upper = bf16_neighbours(value)
        if np.isinf(value) or np.isinf(upper) or np.isinf(lower):
            assert np.sign(got) == np.sign(value)
        else:
            assert abs(got - value) == min(abs(lower - value), abs(upper - value))


def bf16_neighbours(value: float) -> tuple[float, float]:
    """The bfloat16 towards zero from `value`, and the next one away from zero."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    truncated = bits & 0xFFFF0000
    towards, away = (struct.unpack("<f", struct.pack("<I", b))[0] for b in (truncated, truncated + 0x10000))
    return towards, away


def test_a_tie_between_two_bf16_goes_to_the_even_one() -> None:
    request = oip.ModelInferRequest()

    encode_request(request, [Tensor("x", "BF16", np.array([1 + 2**-8, 1 + 3 * 2**-8], dtype="<f4"))])

    assert decode_one(request).tolist() == [1.0, 1 + 2**-6]


@pytest.mark.parametrize("datatype", [name for name in NUMERIC if name != "BF16"])
def test_numeric_raw_contents_are_read_in_place(datatype: str) -> None:
    dtype = DATATYPES[datatype].dtype
    request = request_with([2, 2], datatype, np.ones(4, dtype).tobytes())

    array = decode_one(request)

    assert not array.flags.owndata
    assert not array.flags.writeable


def test_any_non_zero_raw_byte_is_a_true_bool() -> None:
    assert decode_one(request_with([3], "BOOL", b"\x00\x01\xff")).tolist() == [False, True, True]


def test_empty_bytes_elements_are_elements() -> None:
    raw = decode_one(request_with([2], "BYTES", struct.pack("<I", 0) * 2))
    typed = decode_one(request_with([2], "BYTES", bytes_contents=[b"", b""]))

    assert raw.tolist() == typed.tolist() == [b"", b""]


def test_a_batch_of_nothing_needs_no_bytes() -> None:
    assert decode_one(request_with([0, 4], raw=b"")).shape == (0, 4)
    assert decode_one(request_with([0, 4])).shape == (0, 4)
    assert decode_one(request_with([0, 4], "BYTES", raw=b"")).shape == (0, 4)


def test_small_integers_at_their_limits_are_taken() -> None:
    assert decode_one(request_with([2], "INT8", int_contents=[-128, 127])).tolist() == [-128, 127]
    assert decode_one(request_with([2], "INT16", int_contents=[-32768, 32767])).tolist() == [-32768, 32767]
    assert decode_one(request_with([2], "UINT8", uint_contents=[0, 255])).tolist() == [0, 255]
    assert decode_one(request_with([2], "UINT16", uint_contents=[0, 65535])).tolist() == [0, 65535]


def test_64_bit_integers_are_exact() -> None:
    assert decode_one(request_with([1], "INT64", int64_contents=[2**53 + 1])).tolist() == [2**53 + 1]
    assert decode_one(request_with([1], "UINT64", uint64_contents=[2**64 - 1])).tolist() == [2**64 - 1]


def test_contents_that_are_set_and_empty_are_none() -> None:
    request = request_with([1], "INT32", raw=b"\x07\0\0\0")
    request.inputs[0].contents.SetInParent()

    assert decode_one(request).tolist() == [7]


MALFORMED = {
    "both raw and contents": (request_with([1], raw=b"1234", fp32_contents=[1.0]), "both raw and typed"),
    "raw and contents of another type": (request_with([1], raw=b"1234", int_contents=[1]), "both raw and typed"),
    "raw too short": (request_with([2], raw=b"1234"), "takes 8 raw bytes; got 4"),
    "raw too long": (request_with([1], raw=b"12345"), "takes 4 raw bytes; got 5"),
    "raw given for a batch of nothing": (request_with([0, 4], raw=b"1234"), "takes 0 raw bytes; got 4"),
    "fewer elements than the shape": (request_with([3], fp32_contents=[1.0]), "takes 3 elements; got 1"),
    "more elements than the shape": (request_with([1], fp32_contents=[1.0, 2.0]), "takes 1 elements; got 2"),
    "typed field of another datatype": (request_with([1], fp64_contents=[1.0]), "takes fp32_contents, not fp64_"),
    "two typed fields": (request_with([1], fp32_contents=[1.0], int_contents=[1]), "one may be set"),
    "no data at all": (request_with([1]), "takes 1 elements; got 0"),
    "datatype unknown": (request_with([1], "FP8", raw=b"1"), "datatype 'FP8'; valid are BOOL"),
    "datatype in lower case": (request_with([1], "fp32", raw=b"1234"), "datatype 'fp32'"),
    "datatype missing": (request_with([1], "", raw=b"1234"), "datatype ''"),
    "negative dimension": (request_with([-1], raw=b"1234"), "negative dimension -1"),
    "product overflow": (request_with([2**62, 16], raw=b""), "more than 2^63-1 bytes"),
    "product overflow, typed": (request_with([2**62, 16]), "more than 2^63-1 bytes"),
    "product overflow hidden by a zero": (request_with([2**62, 16, 0], raw=b""), "more than 2^63-1 bytes"),
    "product overflow of pointers": (request_with([2**60, 0], "BYTES", raw=b""), "more than 2^63-1 bytes"),
    "large shape, little data": (request_with([2**40], raw=b"1234"), "raw bytes; got 4"),
    "large shape, little typed data": (request_with([2**40], fp32_contents=[1.0]), "elements; got 1"),
    "rank above the limit": (request_with([1] * 33, raw=b"1234"), "33 dimensions; at most 32"),
    "BYTES with fewer elements than the shape": (
        request_with([2], "BYTES", struct.pack("<I", 4) + b"abcd"),
        "ends after 1 of 2",
    ),
    "BYTES too short for its prefixes": (request_with([2**40], "BYTES", b"1234"), "too few for"),
    "BYTES whose length runs past the end": (
        request_with([1], "BYTES", struct.pack("<I", 2**32 - 1) + b"ab"),
        "says 4294967295 bytes; 2 are left",
    ),
    "BYTES cut inside a prefix": (
        request_with([2], "BYTES", struct.pack("<I", 2) + b"ab" + b"\x00\x00"),
        "ends after 1 of 2",
    ),
    "BYTES with trailing bytes": (request_with([1], "BYTES", struct.pack("<I", 0) + b"x"), "has 1 bytes after"),
    "FP16 typed": (request_with([1], "FP16", fp32_contents=[1.0]), "only as raw"),
    "BF16 typed": (request_with([1], "BF16", fp32_contents=[1.0]), "only as raw"),
    "INT8 above its range": (request_with([2], "INT8", int_contents=[0, 128]), "128; INT8 takes -128 to 127"),
    "INT8 below its range": (request_with([1], "INT8", int_contents=[-129]), "-129; INT8"),
    "INT16 above its range": (request_with([1], "INT16", int_contents=[32768]), "32768; INT16"),
    "UINT8 above its range": (request_with([1], "UINT8", uint_contents=[256]), "256; UINT8 takes 0 to 255"),
    "UINT16 above its range": (request_with([1], "UINT16", uint_contents=[65536]), "65536; UINT16"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_tensor_is_refused_with_a_sentence_that_says_what(case: str) -> None:
    request, sentence = MALFORMED[case]

    with pytest.raises(InvalidInput) as refusal:
        decode_request(oip.ModelInferRequest.FromString(request.SerializeToString()))

    assert sentence in refusal.value.message


def test_number_of_raw_entries_must_be_the_number_of_inputs() -> None:
    request = request_with([1], raw=b"1234")
    request.raw_input_contents.append(b"1234")

    with pytest.raises(InvalidInput, match="2 raw input contents for 1 inputs"):
        decode_request(request)


def test_input_given_twice_is_refused() -> None:
    request = request_with([1], fp32_contents=[1.0])
    request.inputs.append(request.inputs[0])

    with pytest.raises(InvalidInput, match="input 'x' is given twice"):
        decode_request(request)


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    st.sampled_from([*DATATYPES, "nonsense"]),
    st.one_of(st.none(), st.binary(max_size=40)),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
)
def test_nothing_but_invalid_input_comes_out_of_any_request(
    shape: list[int], datatype: str, raw: bytes | None, ints: list[int]
) -> None:
    request = request_with(shape, datatype, raw, **({"int_contents": ints} if ints else {}))

    try:
        array = decode_one(request)
    except InvalidInput:
        return

    assert list(array.shape) == shape


def test_a_refused_giant_allocates_nothing() -> None:
    request = request_with([2**33], "FP64", raw=b"12345678")
    tracemalloc.start()

    with pytest.raises(InvalidInput):
        decode_request(request)

    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 100_000

"""Infer over a real port: tensors as JSON, as bytes, and as both in one request."""

from __future__ import annotations

import gzip
import json
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from gateway.rest.v2_binary import AnswerForm
from gateway.rest.v2_infer import read_request, write_response
from mesh.errors import Internal
from mesh.oip import open_inference_pb2 as oip
from tests.gateway.conftest import Door, open_door

INFER = "/v2/models/echo/infer"
ROWS = np.arange(8, dtype="<f4").reshape(2, 4)
TEXTS = b"\x02\x00\x00\x00\xff\xfe\x00\x00\x00\x00"


def binary(name: str, datatype: str, shape: list[int], raw: bytes) -> tuple[dict[str, Any], bytes]:
    entry = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    return entry, raw


async def post(door: Door, body: dict[str, Any], *raws: bytes, **headers: str) -> httpx.Response:
    """A request with `raws` behind its JSON."""
    text = orjson.dumps(body)
    length = {"Inference-Header-Content-Length": str(len(text))}
    return await door.http.post(INFER, content=text + b"".join(raws), headers=length | headers)


def taken_apart(answer: httpx.Response) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The JSON of an answer, and the bytes of its binary outputs."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    body, position, raws = orjson.loads(answer.content[:length]), length, {}
    for output in body["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            raws[output["name"]] = answer.content[position : position + size]
            position += size
    assert position == len(answer.content)
    return body, raws


async def test_bytes_in_and_out(door: Door) -> None:
    (entry, raw), (texts, raw_texts) = binary("x", "FP32", [2, 4], ROWS.tobytes()), binary("t", "BYTES", [2], TEXTS)
    asked = {"id": "r-1", "inputs": [entry, texts], "parameters": {"binary_data_output": True, "mine": 5}}

    answer = await post(door, asked, raw, raw_texts)

    body, raws = taken_apart(answer)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert raws == {"x": raw, "t": TEXTS}
    assert body["id"] == "r-1"
    assert body["outputs"][0] == entry
    (request,) = door.inference.requests
    assert {name: value.int64_param for name, value in request.parameters.items()} == {"mine": 5}
    assert not request.inputs[0].parameters


async def test_json_and_bytes_in_one_request_and_answer(door: Door) -> None:
    entry, raw = binary("x", "FP32", [2, 4], ROWS.tobytes())
    plain = {"name": "n", "datatype": "INT64", "shape": [2], "data": [2**53 + 1, -1]}
    wanted = [{"name": "x"}, {"name": "n", "parameters": {"binary_data": True}}]

    answer = await post(door, {"inputs": [plain, entry], "outputs": wanted}, raw)

    body, raws = taken_apart(answer)
    assert raws == {"n": struct.pack("<2q", 2**53 + 1, -1)}
    assert body["outputs"][1] == {"name": "x", "datatype": "FP32", "shape": [2, 4], "data": list(range(8))}


async def test_bytes_in_may_go_out_as_json(door: Door) -> None:
    halves = np.array([0.5, 65504], dtype="<f2")
    bfloats = struct.pack("<2H", 0x3F80, 0x4049)  # 1.0, 3.140625
    (one, raw), (two, raw_two) = binary("h", "FP16", [2], halves.tobytes()), binary("b", "BF16", [2], bfloats)

    answer = await post(door, {"inputs": [one, two]}, raw, raw_two)

    assert "inference-header-content-length" not in answer.headers
    assert [output["data"] for output in answer.json()["outputs"]] == [[0.5, 65504.0], [1.0, 3.140625]]


async def test_json_in_may_go_out_as_bytes(door: Door) -> None:
    plain = {"name": "b", "datatype": "BF16", "shape": [2], "data": [1, 3.14]}

    answer = await door.http.post(INFER, json={"inputs": [plain], "parameters": {"binary_data_output": True}})

    assert taken_apart(answer)[1] == {"b": struct.pack("<2H", 0x3F80, 0x4049)}


async def test_empty_tensor_has_no_bytes(door: Door) -> None:
    entry, _ = binary("x", "FP32", [0, 4], b"")

    answer = await post(door, {"inputs": [entry], "parameters": {"binary_data_output": True}})

    assert taken_apart(answer)[1] == {"x": b""}


@pytest.mark.parametrize(
    ("changes", "raw", "says"),
    [
        ({"parameters": {"binary_data_size": 32}}, bytes(31), "31 bytes are left"),
        ({"parameters": {"binary_data_size": 32}}, bytes(33), "1 bytes are left behind the last tensor"),
        ({"parameters": {"binary_data_size": 28}}, bytes(28), "takes 32 raw bytes; got 28"),
        ({"parameters": {"binary_data_size": -4}}, b"", "whole number"),
        ({"parameters": {"binary_data_size": "32"}}, bytes(32), "whole number"),
        ({"data": [1]}, bytes(32), "both 'data' and binary_data_size"),
        ({"shape": [2**62, 16]}, bytes(32), "2^63-1"),
        ({"datatype": "fp32"}, bytes(32), "valid are"),
        ({"datatype": "BYTES", "shape": [8]}, b"\xff" * 32, "BYTES element 0"),
        ({"datatype": "BYTES", "shape": [1]}, bytes(32), "after its 1 BYTES elements"),
        ({"parameters": {"shared_memory_region": "r"}}, b"", "shared memory is not offered"),
    ],
)
async def test_wrong_bytes_are_one_sentence(door: Door, changes: dict[str, Any], raw: bytes, says: str) -> None:
    entry, _ = binary("x", "FP32", [2, 4], bytes(32))

    answer = await post(door, {"inputs": [entry | changes]}, raw)

    assert answer.status_code == 400
    assert says in answer.json()["error"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_whole_body_is_packed_both_ways(door: Door, coding: str) -> None:
    zeros = bytes(4 * 40_000)
    entry, _ = binary("x", "FP32", [40_000], zeros)
    text = orjson.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}})
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[coding]
    headers = {
        "Inference-Header-Content-Length": str(len(text)),
        "Content-Encoding": coding,
        "Accept-Encoding": coding,
    }

    answer = await door.http.post(INFER, content=pack(text + zeros), headers=headers)

    assert answer.headers["content-encoding"] == coding
    assert int(answer.headers["content-length"]) < 10_000
    assert taken_apart(answer)[1] == {"x": zeros}


async def test_non_finite_literals_only_where_the_deployment_allows_them(door: Door) -> None:
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [4], "data": [NaN, -Infinity, Infinity, 0.1]}]}'

    refused = await door.http.post(INFER, content=body)
    allowed = await door.http.post("/v2/models/loose/infer", content=body)

    assert refused.status_code == 400
    assert "not JSON" in refused.json()["error"]
    assert b'"data":[NaN,-Infinity,Infinity,0.1]' in allowed.content
    assert json.loads(allowed.content)["outputs"][0]["data"][3] == 0.1


async def test_large_tensor_leaves_a_record_without_its_bytes(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        raw = bytes(4 << 20)
        entry, _ = binary("x", "UINT8", [len(raw)], raw)

        answer = await post(door, {"inputs": [entry], "parameters": {"binary_data_output": True}}, raw)

        assert taken_apart(answer)[1] == {"x": raw}
        (record,) = await door.records()
        assert record["deployment"] == "echo"


def test_typed_answer_of_another_server_still_goes_out_as_bytes() -> None:
    typed = oip.ModelInferResponse(outputs=[{"name": "y", "datatype": "INT32", "shape": [2]}])
    typed.outputs[0].contents.int_contents.extend([1, 2])

    response = write_response(typed.SerializeToString(), AnswerForm(by_default=True))

    assert int(response.headers["content-length"]) == int(response.headers["inference-header-content-length"]) + 8


@pytest.mark.parametrize("form", [AnswerForm(), AnswerForm(by_default=True, by_output={"y": False})])
def test_answer_that_does_not_add_up_is_the_servers_fault(form: AnswerForm) -> None:
    short = oip.ModelInferResponse(
        outputs=[{"name": "y", "datatype": "INT32", "shape": [2]}], raw_output_contents=[b""]
    )
    twice = oip.ModelInferResponse(raw_output_contents=[b"", b""])

    with pytest.raises(Internal):
        write_response(short.SerializeToString(), form)
    if form.may_be_binary:
        with pytest.raises(Internal):
            write_response(twice.SerializeToString(), form)


def test_16_mib_are_copied_once_on_the_way_in_and_not_at_all_on_the_way_out() -> None:
    size = 16 << 20
    entry = {"name": "x", "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}
    text = orjson.dumps({"inputs": [entry]})
    body = bytearray(text + bytes(size))
    answer = oip.ModelInferResponse(
        outputs=[{"name": "x", "datatype": "UINT8", "shape": [size]}], raw_output_contents=[bytes(size)]
    ).SerializeToString()
    tracemalloc.start()

    read_request(oip.ModelInferRequest(model_name="m"), body, str(len(text)), non_finite=False)
    _, peak_in_bytes = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    write_response(answer, AnswerForm(by_default=True))
    _, peak_out_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert size <= peak_in_bytes < 1.1 * size
    assert peak_out_bytes < 0.1 * size

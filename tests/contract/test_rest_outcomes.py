"""Every REST row of the outcomes table, over one connection: after each, the next request on it works.

The predictor's part of the table is its own (tests/predictor/test_servicer.py); here is seen what a REST client gets.
"""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.contract.rest_mesh import rest_mesh_in_thread

INFER = "/v2/models/identity/infer"
HEADER = "Inference-Header-Content-Length"
GOOD = {"name": "fp32_in", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 0.1]}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rest_mesh_in_thread(tmp_path_factory.mktemp("mesh")) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    """One connection to the gateway."""
    with one_connection(url) as made:
        yield made


def one_connection(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=20, trust_env=False, limits=httpx.Limits(max_connections=1))


def good_request_works(client: httpx.Client) -> None:
    answer = client.post(INFER, json={"inputs": [GOOD], "outputs": [{"name": "fp32_out"}]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == [0.5, 0.1]


def refused(client: httpx.Client, answer: httpx.Response, status: int, says: str = "") -> None:
    """`answer` is {"error": sentence} with that status, tells nothing of the inside, and the connection goes on."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert says in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert "/secret" not in answer.text
    good_request_works(client)


def altered(**fields: Any) -> dict[str, Any]:
    return {"inputs": [GOOD | fields]}


def of(datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    entry = {"name": f"{datatype.lower()}_in", "datatype": datatype, "shape": shape or [1, 2], "data": data}
    return {"inputs": [entry], "outputs": [{"name": f"{datatype.lower()}_out"}]}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/nobody/infer", 404),
        ("/v2/models/identity/versions/9/infer", 404),
        ("/v2/models/broken/infer", 503),
        ("/v2/models/absent/infer", 503),
        ("/v2/models/identity/versions/1/infer/more", 404),
    ],
)
def test_model_or_version_that_is_not_there(client: httpx.Client, path: str, status: int) -> None:
    refused(client, client.post(path, json={"inputs": [GOOD]}), status)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"inputs"', "not JSON"),
        (b"\xff", "not JSON"),
        (b"[1]", "must be a JSON object"),
        (b"{}", "'inputs'"),
        (b'{"inputs": []}', "'inputs'"),
        (b'{"inputs": null}', "'inputs'"),
        (altered(data=["1", "2"]), "takes numbers"),
        (altered(data=[True, False]), "got bool"),
        (altered(data=[None, 1]), "got null"),
        (altered(data=[[1], [2, 3]]), "ragged"),
        (altered(data=[1]), "takes 2 elements; got 1"),
        (altered(data=[1, 2, 3]), "takes 2 elements; got 3"),
        (altered(data=[1e300, 1]), "cannot hold"),
        (altered(shape=[]), "takes 1 elements"),
        (altered(shape="1"), "must be a list"),
        (altered(shape=[1.5, 2]), "dimension"),
        (altered(shape=[-1, 2]), "dimension"),
        (altered(shape=[2**62, 16]), "2^63-1"),
        (altered(shape=[2], data=[1, 2]), "shape"),
        (altered(shape=[1, 3], data=[1, 2, 3]), "shape"),
        (altered(shape=[9, 2], data=[1] * 18), "at most 8"),
        (altered(datatype="FP31"), "valid are"),
        (altered(datatype="fp32"), "valid are"),
        (altered(datatype="FP64"), "FP32"),
        (altered(name="nothing_in"), "nothing_in"),
        ({"inputs": [GOOD, GOOD]}, "twice"),
        ({"inputs": [GOOD], "outputs": [{"name": "nothing_out"}]}, "nothing_out"),
        (of("INT8", [128, 0]), "cannot hold"),
        (of("INT16", [-32769, 0]), "cannot hold"),
        (of("BYTES", ["a"]), "takes 2 elements"),
    ],
)
def test_wrong_request_is_400(client: httpx.Client, body: Any, says: str) -> None:
    content = body if isinstance(body, bytes) else orjson.dumps(body)

    refused(client, client.post(INFER, content=content), 400, says)


def test_missing_input_is_400(client: httpx.Client) -> None:
    for body in ({"instances": [[1, 2]]}, {"instances": [{}]}):
        refused(client, client.post("/v1/models/identity:predict", json=body), 400)


@pytest.mark.parametrize(
    ("header", "size", "raw", "says"),
    [
        ("-1", 8, bytes(8), HEADER),
        ("x", 8, bytes(8), HEADER),
        ("1e2", 8, bytes(8), HEADER),
        ("", 8, bytes(8), HEADER),
        ("99999", 8, bytes(8), HEADER),
        ("0", 8, bytes(8), HEADER),
        ("+3", 8, bytes(8), "not JSON"),
        ("-3", 8, bytes(8), "not JSON"),
        (None, 8, bytes(8), "not JSON"),
        ("right", 8, bytes(7), "7 bytes are left"),
        ("right", 8, bytes(9), "1 bytes are left"),
        ("right", 4, bytes(4), "takes 8 raw bytes; got 4"),
        ("right", 12, bytes(12), "takes 8 raw bytes; got 12"),
        ("right", -8, bytes(8), "whole number"),
        ("right", 2**70, bytes(8), "whole number"),
        ("right", "8", bytes(8), "whole number"),
    ],
)
def test_wrong_binary_request_is_400(
    client: httpx.Client, header: str | None, size: Any, raw: bytes, says: str
) -> None:
    entry = {"name": "fp32_in", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    text = orjson.dumps({"inputs": [entry]}).replace(b'"binary_data_size":8', b'"binary_data_size":%b' % _json(size))
    headers = {} if header is None else {HEADER: _header(header, len(text))}

    refused(client, client.post(INFER, content=text + raw, headers=headers), 400, says)


def _json(value: Any) -> bytes:
    return str(value).encode() if isinstance(value, int) else orjson.dumps(value)


def _header(header: str, length: int) -> str:
    """ "right" is the length; "+3" and "-3" are so much beside it."""
    if header == "right":
        return str(length)
    return str(length + int(header)) if header in ("+3", "-3") else header


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\x01\0\0\0a", "too few for 2 BYTES elements"),
        (b"\x01\0\0\0a\x09\0\0\0b", "says 9 bytes"),
        (b"\x01\0\0\0a\x01\0\0\0bc", "1 bytes after"),
    ],
)
def test_bytes_that_do_not_add_up_are_400(client: httpx.Client, raw: bytes, says: str) -> None:
    entry = {"name": "bytes_in", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": len(raw)}}
    text = orjson.dumps({"inputs": [entry]})

    answer = client.post(INFER, content=text + raw, headers={HEADER: str(len(text))})

    refused(client, answer, 400, says)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("UINT64", [2**64 - 1, 2**53 + 1]),
        ("INT8", [-128, 127]),
        ("INT16", [-32768, 32767]),
        ("INT64", [2**53 + 1, -(2**63)]),
        ("FP16", [0.5, -65504.0]),
        ("BF16", [0.5, 3.140625]),
        ("FP32", [0.1, 3.4028235e38]),
        ("FP64", [0.1, 5e-324]),
        ("BYTES", ["", "größe"]),
    ],
)
@pytest.mark.parametrize("is_nested", [False, True])
def test_every_datatype_comes_back_exactly(
    client: httpx.Client, datatype: str, data: list[Any], is_nested: bool
) -> None:
    answer = client.post(INFER, json=of(datatype, [data] if is_nested else data))

    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0] == {
        "name": f"{datatype.lower()}_out",
        "datatype": datatype,
        "shape": [1, 2],
        "data": data,
    }


def test_what_is_unusual_and_right_is_200(client: httpx.Client) -> None:
    unknown = {"inputs": [GOOD], "parameters": {"mine": 1, "priority": 3}, "id": ""}
    assert (client.post(INFER, json=unknown)).status_code == 200
    empty = client.post(INFER, json=of("FP32", [], [0, 2]))
    assert (empty.status_code, empty.json()["outputs"][0]["shape"]) == (200, [0, 2])
    packed = gzip.compress(orjson.dumps({"inputs": [GOOD], "outputs": [{"name": "fp32_out"}]}))
    answer = client.post(INFER, content=packed, headers={"Content-Encoding": "gzip"})
    assert answer.json()["outputs"][0]["data"] == [0.5, 0.1]
    echoed = client.post(INFER, json={"inputs": [GOOD], "id": "r-1"})
    assert (echoed.json()["id"], echoed.json()["model_version"]) == ("r-1", "1")


def test_non_finite_numbers(client: httpx.Client) -> None:
    raw = struct.pack("<2f", math.nan, -math.inf)
    text = orjson.dumps(
        {
            "inputs": [{"name": "fp32_in", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}],
            "outputs": [{"name": "fp32_out"}],
        }
    )
    headers = {HEADER: str(len(text))}

    strict = (client.post(INFER, content=text + raw, headers=headers)).json()["outputs"][0]
    loose = client.post("/v2/models/loose/infer", content=text + raw, headers=headers)

    assert (strict["data"], strict["parameters"]) == ([None, None], {"non_finite_as_null": True})
    assert b'"data":[NaN,-Infinity]' in loose.content
    literal = b'{"inputs": [{"name": "fp32_in", "datatype": "FP32", "shape": [1, 2], "data": [NaN, Infinity]}]}'
    refused(client, client.post(INFER, content=literal), 400, "not JSON")
    assert (client.post("/v2/models/loose/infer", content=literal)).status_code == 200


def test_fault_of_a_model_names_the_request_and_nothing_else(client: httpx.Client) -> None:
    answer = client.post(INFER, json=of("FP32", [13, 1]), headers={"x-request-id": "mine-1"})

    refused(client, answer, 500, "mine-1")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("PUT", INFER, 405),
        ("POST", "/v2/health/live", 405),
        ("DELETE", "/v2/models/identity", 405),
        ("GET", "/v2/repository/index", 405),
        ("GET", "/v1/models/identity:predict", 405),
        ("GET", "/v2/nothing", 404),
        ("POST", "/nothing", 404),
        ("GET", "/v2/models/nobody", 404),
        ("POST", "/v2/repository/models/nobody/load", 404),
    ],
)
def test_wrong_method_or_route(client: httpx.Client, method: str, path: str, status: int) -> None:
    refused(client, client.request(method, path), status)


@pytest.mark.parametrize("is_packed", [False, True])
def test_body_above_the_limit_is_413(tmp_path: Path, is_packed: bool) -> None:
    with rest_mesh_in_thread(tmp_path, max_body_bytes=5000) as url, one_connection(url) as client:
        body = orjson.dumps(altered(name="x" * 6000))
        headers = {"Content-Encoding": "gzip"} if is_packed else {}

        answer = client.post(INFER, content=gzip.compress(body) if is_packed else body, headers=headers)

        refused(client, answer, 413, "limit of 5000 bytes")


def test_16_mib_are_200(client: httpx.Client) -> None:
    raw = bytes(range(256)) * (1 << 16)
    entry = {"name": "bytes_in", "datatype": "BYTES", "shape": [1, 2]}
    raw = struct.pack("<I", len(raw)) + raw + bytes(4)
    entry["parameters"] = {"binary_data_size": len(raw)}
    wanted = [{"name": "bytes_out", "parameters": {"binary_data": True}}]
    text = orjson.dumps({"inputs": [entry], "outputs": wanted})

    answer = client.post(INFER, content=text + raw, headers={HEADER: str(len(text)), "Accept-Encoding": "identity"})

    assert answer.status_code == 200
    assert answer.content[int(answer.headers[HEADER]) :] == raw

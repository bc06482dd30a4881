"""The REST part of the Open Inference Protocol over a real port."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.gateway.conftest import Door

INPUT = {"name": "input", "datatype": "FP64", "shape": [2, 2], "data": [[1, 2], [3, 4.5]]}


async def test_health_and_metadata_of_the_server(door: Door) -> None:
    assert (await door.http.get("/v2/health/live")).json() == {"live": True}
    assert (await door.http.get("/v2/health/ready")).json() == {"ready": True}
    metadata = (await door.http.get("/v2")).json()
    assert metadata["name"] == "meshserve"
    assert "generate" in metadata["extensions"]


@pytest.mark.parametrize("version", ["", "/versions/1"])
async def test_what_a_model_says_of_itself(door: Door, version: str) -> None:
    path = f"/v2/models/echo{version}"

    assert (await door.http.get(path)).json() == {
        "name": "echo",
        "versions": ["1"],
        "platform": "fake",
        "inputs": [{"name": "input", "datatype": "FP64", "shape": [-1, 4]}],
        "outputs": [{"name": "input", "datatype": "FP64", "shape": [-1, 4]}],
    }
    assert (await door.http.get(f"{path}/ready")).json() == {"name": "echo", "ready": True}
    assert (await door.http.get(f"{path}/config")).json()["max_batch_size"] == 8
    assert (await door.http.get(f"{path}/stats")).json()["model_stats"][0]["inference_count"] == 2**53 + 1


async def test_model_that_nobody_has_ready_is_not_ready(door: Door) -> None:
    for path in ("/v2/models/absent/ready", "/v2/models/echo/versions/2/ready"):
        answer = await door.http.get(path)
        assert (answer.status_code, answer.json()["ready"]) == (503, False)


@pytest.mark.parametrize("version", ["", "/versions/1"])
async def test_infer(door: Door, version: str) -> None:
    body = {"id": "r-1", "inputs": [INPUT], "outputs": [{"name": "input"}], "parameters": {"priority": 3}}

    answer = await door.http.post(f"/v2/models/echo{version}/infer", json=body)

    assert answer.json() == {
        "model_name": "echo",
        "model_version": "1",
        "id": "r-1",
        "outputs": [{"name": "input", "datatype": "FP64", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.5]}],
    }
    (request,) = door.inference.requests
    assert request.outputs[0].name == "input"
    assert request.parameters["priority"].int64_param == 3


async def test_whole_numbers_are_exact_beyond_what_doubles_hold(door: Door) -> None:
    body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [2], "data": [2**53 + 1, -(2**63)]}]}

    answer = await door.http.post("/v2/models/echo/infer", json=body)

    assert answer.json()["outputs"][0]["data"] == [2**53 + 1, -(2**63)]
    assert "id" not in answer.json()


async def test_non_finite_outputs_are_null_and_say_so(door: Door) -> None:
    body = {"inputs": [INPUT | {"name": "infinite"}]}

    output = (await door.http.post("/v2/models/echo/infer", json=body)).json()["outputs"][0]

    assert output["data"] == [1.5, None, None]
    assert output["parameters"] == {"non_finite_as_null": True}


def altered(**fields: Any) -> bytes:
    return orjson.dumps({"inputs": [INPUT | fields]})


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"inputs": [NaN]}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "'inputs'"),
        (b'{"inputs": []}', "'inputs'"),
        (b'{"inputs": {}}', "'inputs'"),
        (b'{"inputs": [7]}', "must be an object"),
        (altered(data=[1]), "takes 4 elements; got 1"),
        (altered(data=["1", 2, 3, 4]), "takes numbers"),
        (altered(shape=[2**62, 16]), "2^63-1"),
        (altered(shape="2"), "shape must be a list"),
        (altered(datatype="FLOAT"), "valid are"),
        (altered(name="bad"), "no input 'bad'"),
        (altered(parameters=[1]), "parameters"),
        (orjson.dumps({"inputs": [INPUT, INPUT]}), "given twice"),
        (orjson.dumps({"inputs": [INPUT], "id": 7}), "'id'"),
        (orjson.dumps({"inputs": [INPUT], "outputs": "x"}), "'outputs'"),
        (orjson.dumps({"inputs": [INPUT], "outputs": [{}]}), "outputs[0]"),
    ],
)
async def test_wrong_infer_request_is_one_sentence(door: Door, body: bytes, says: str) -> None:
    answer = await door.http.post("/v2/models/echo/infer", content=body)

    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert says in answer.json()["error"]
    assert (await door.http.get("/v2/health/live")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/nobody/infer", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/nobody/ready", 404),
        ("POST", "/v2/models/echo/versions/9/infer", 404),
        ("POST", "/v2/repository/models/nobody/load", 404),
        ("POST", "/v2/repository/models/pair/load", 404),
        ("POST", "/v2/models/absent/infer", 503),
        ("GET", "/v2/models/echo/infer", 405),
        ("DELETE", "/v2", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/v2/", 404),
        ("GET", "/v2/models/echo/infer/more", 404),
    ],
)
async def test_status_of_what_is_not_there(door: Door, method: str, path: str, status: int) -> None:
    body = {"inputs": [INPUT]} if method == "POST" else None

    answer = await door.http.request(method, path, json=body)

    assert answer.status_code == status
    assert isinstance(answer.json()["error"], str)


async def test_repository(door: Door) -> None:
    everything = (await door.http.post("/v2/repository/index")).json()
    ready = (await door.http.post("/v2/repository/index", json={"ready": True})).json()

    assert [(entry["name"], entry["state"]) for entry in everything] == [
        ("absent", "UNAVAILABLE"),
        ("chat", "READY"),
        ("echo", "READY"),
        ("loose", "READY"),
        ("pair", "READY"),
    ]
    assert [entry["name"] for entry in ready] == ["chat", "echo", "loose", "pair"]
    assert (await door.http.get("/v2/models")).json() == {"models": ["absent", "chat", "echo", "loose", "pair"]}
    assert (await door.http.post("/v2/repository/models/echo/load")).json()["isLoaded"] is True
    assert (await door.http.post("/v2/repository/models/echo/unload")).json()["isUnloaded"] is True
    assert (door.inference.loaded, door.inference.unloaded) == (["echo"], ["echo"])


async def test_parameters_of_a_load_reach_the_predictor(door: Door) -> None:
    parameters = {"config": "{}", "file:1/model.bin": "AAE=", "unload_dependents": False, "count": 3}

    answer = await door.http.post("/v2/repository/models/echo/load", json={"parameters": parameters})

    assert answer.status_code == 200
    (request,) = door.inference.load_requests
    assert request.parameters["config"].string_param == "{}"
    assert request.parameters["file:1/model.bin"].bytes_param == b"\0\1"
    assert request.parameters["unload_dependents"].HasField("bool_param")
    assert request.parameters["count"].int64_param == 3


@pytest.mark.parametrize("parameters", [[1], {"a": None}, {"a": 0.5}, {"a": 2**64 - 1}, {"file:x": "!"}])
async def test_wrong_parameters_of_a_load_are_named(door: Door, parameters: Any) -> None:
    answer = await door.http.post("/v2/repository/models/echo/unload", json={"parameters": parameters})

    assert answer.status_code == 400
    assert "parameter" in answer.json()["error"]


async def test_statistics_of_all_models(door: Door) -> None:
    found = (await door.http.get("/v2/models/stats")).json()["model_stats"]

    assert [entry["name"] for entry in found] == ["chat", "echo", "loose", "pair"]


async def test_root_is_alive(door: Door) -> None:
    assert (await door.http.get("/")).json() == {"status": "alive"}

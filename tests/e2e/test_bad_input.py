"""Bad input through the door: one clear sentence in the form of the protocol that was spoken, and the mesh goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.running import MODELS, Mesh

CHAT = "/v1/chat/completions"
INFER = "/v2/models/iris/infer"
ROW = [5.1, 3.5, 1.4, 0.2]


def tensor(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 4], "data": ROW, **changes}]}


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, **changes}


@pytest.fixture(autouse=True)
def the_mesh_goes_on(mesh: Mesh) -> Iterator[None]:
    pids = {service["name"]: service["pid"] for service in mesh.info()["services"]}
    yield
    assert {service["name"]: service["pid"] for service in mesh.info()["services"]} == pids
    for model in MODELS:
        assert httpx.get(f"{mesh.url}/v2/models/{model}/ready").json()["ready"] is True


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v2/models/nobody/infer", tensor(), 404, "nobody"),
        ("/v2/models/iris/versions/99/infer", tensor(), 404, "99"),
        (INFER, tensor(shape=[1, 3], data=ROW[:3]), 400, "shape"),
        (INFER, tensor(shape=[1, 5]), 400, "shape"),
        (INFER, tensor(datatype="INT32", data=[1, 2, 3, 4]), 400, "INT32"),
        (INFER, tensor(datatype="fp64"), 400, "fp64"),
        (INFER, tensor(name="nothing"), 400, "nothing"),
        (INFER, tensor(data=["a", "b", "c", "d"]), 400, "data"),
        (INFER, {"inputs": []}, 400, "input"),
        (INFER, {}, 400, "inputs"),
        ("/v1/models/nobody:predict", {"instances": [ROW]}, 404, "nobody"),
        ("/v1/models/iris:predict", {"instances": [ROW[:3]]}, 400, "shape"),
        ("/v1/models/iris:predict", {"rows": [ROW]}, 400, "instances"),
        ("/v1/models/iris:explain", {"instances": [["a", "b", "c", "d"]]}, 400, "numbers"),
        ("/v2/models/iris/generate", {"text_input": "Hi"}, 400, "iris"),
        ("/v2/models/smollm2/generate", {}, 400, "text_input"),
        ("/nowhere", {}, 404, "path"),
    ],
)
def test_rest_says_what_is_wrong(mesh: Mesh, path: str, body: dict[str, Any], status: int, words: str) -> None:
    answer = httpx.post(f"{mesh.url}{path}", json=body)

    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert words in answer.json()["error"]


@pytest.mark.parametrize("path", [INFER, CHAT, "/v1/models/iris:predict", "/v2/models/smollm2/generate_stream"])
@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 100_000, b'{"inputs": NaN}'])
def test_malformed_json_is_a_bad_request(mesh: Mesh, path: str, content: bytes) -> None:
    answer = httpx.post(f"{mesh.url}{path}", content=content, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "status", "kind", "code", "words"),
    [
        (chat(model="nobody"), 404, "not_found_error", "model_not_found", "nobody"),
        (chat(model="iris"), 400, "invalid_request_error", None, "iris"),
        (chat(messages=[]), 400, "invalid_request_error", None, "messages"),
        (chat(messages=[{"role": "user", "content": "word " * 9000}]), 400, "invalid_request_error",
         "context_length_exceeded", "8192"),
        (chat(max_tokens=0), 400, "invalid_request_error", None, "max_tokens"),
        (chat(temperature=-1), 400, "invalid_request_error", None, "temperature"),
        (chat(top_p=0), 400, "invalid_request_error", None, "top_p"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_openai_errors_have_its_form(
    mesh: Mesh, body: dict[str, Any], status: int, kind: str, code: str | None, words: str, stream: bool
) -> None:
    answer = httpx.post(f"{mesh.url}{CHAT}", json={**body, "stream": stream}, timeout=60)

    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (status, kind, code)
    assert words in error["message"]


def test_stock_client_raises_its_own_errors(mesh: Mesh) -> None:
    client = openai.OpenAI(base_url=f"{mesh.url}/v1", api_key="none", max_retries=0)

    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="smollm2", prompt="Hi", temperature=9)


def test_wrong_method_is_answered_as_json(mesh: Mesh) -> None:
    answer = httpx.get(f"{mesh.url}{INFER}")

    assert (answer.status_code, list(answer.json())) == (405, ["error"])

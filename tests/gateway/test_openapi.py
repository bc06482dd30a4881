"""The document names every route and no other, its parts fit together, and the page needs nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from gateway.dataplane import Dataplane
from gateway.openapi.document import build_document, operations
from gateway.openapi.messages import message_schemas
from gateway.repository import RepositoryControl
from gateway.rest.message_json import message_to_json
from gateway.routes import build_routes
from mesh.oip import open_inference_pb2 as oip
from mesh.pool import EndpointPool
from mesh.view import MeshView
from tests.gateway.conftest import Door

DOCUMENT = build_document()
SCHEMAS = DOCUMENT["components"]["schemas"]
VIEW = MeshView()
ROUTES = build_routes(
    Dataplane(EndpointPool(lambda: VIEW), lambda: VIEW, request_timeout_s=5),
    RepositoryControl(lambda: VIEW, request_timeout_s=5),
)
# The document and its page are not described by themselves.
OWN = {("GET", "/openapi.json"), ("GET", "/docs")}


def test_every_route_is_in_the_document_and_the_other_way_round() -> None:
    served = {(method, route.path) for route in ROUTES for method in route.methods or () if method != "HEAD"}
    rows = [(operation.method, operation.path) for operation in operations()]

    assert set(rows) == served - OWN
    assert len(rows) == len(set(rows))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    if isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere() -> None:
    for reference in set(references(DOCUMENT)):
        found: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


def test_operations_have_ids_of_their_own() -> None:
    ids = [one["operationId"] for methods in DOCUMENT["paths"].values() for one in methods.values()]

    assert len(ids) == len(set(ids))


def test_examples_fit_their_schemas() -> None:
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" in body:
                validator({**body["schema"], "components": DOCUMENT["components"]}).validate(body["example"])


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema)


def test_schema_of_a_message_is_what_is_written_of_it() -> None:
    config = oip.ModelConfig(name="m", max_batch_size=8)
    config.input.add(name="x", data_type=oip.DataType.TYPE_FP32, dims=[-1, 4])
    config.dynamic_batching.SetInParent()
    schemas = message_schemas(oip.ModelConfig.DESCRIPTOR, oip.ModelStatisticsResponse.DESCRIPTOR)
    statistics = oip.ModelStatistics(name="m", inference_count=2**64 - 1)
    statistics.response_stats["0"].success.count = 3

    for name, message in (("ModelConfig", config), ("ModelStatistics", statistics)):
        whole = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
        validator(whole).validate(message_to_json(message))


def test_what_clients_may_write_is_wider_than_what_is_kept_of_it() -> None:
    chat = {"$ref": "#/components/schemas/ChatCompletionRequest", "components": DOCUMENT["components"]}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    named = {"type": "function", "function": {"name": "f"}}

    for more in ({"stop": "x"}, {"stop": ["x"]}, {"logit_bias": {"7": 1}}, {"tool_choice": named}, {"stop": None}):
        validator(chat).validate(body | more)
    for wrong in ({"stop": 7}, {"logit_bias": {"x": 1}}, {"tool_choice": "perhaps"}):
        with pytest.raises(jsonschema.ValidationError):
            validator(chat).validate(body | wrong)


async def test_document_and_page_are_served(door: Door) -> None:
    document = await door.http.get("/openapi.json")
    page = await door.http.get("/docs")

    assert document.json()["openapi"] == "3.1.0"
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    # Nothing is loaded from another host.
    assert re.findall(r"""(?:src|href)\s*[=:]\s*["'](?!/openapi\.json|data:)[^"']+""", page.text) == []
    assert "://" not in page.text

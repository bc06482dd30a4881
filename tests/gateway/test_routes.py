"""The table of routes is the contract's, and predictions are marked as such."""

from __future__ import annotations

import pytest
from starlette.routing import Match

from gateway.dataplane import Dataplane
from gateway.repository import RepositoryControl
from gateway.routes import build_routes
from mesh.pool import EndpointPool
from mesh.view import MeshView
from tests.gateway.conftest import Door

VIEW = MeshView()
ROUTES = build_routes(
    Dataplane(EndpointPool(lambda: VIEW), lambda: VIEW, request_timeout_s=5),
    RepositoryControl(lambda: VIEW, request_timeout_s=5),
)


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("POST", "/v1/chat/completions", "/v1/chat/completions"),
        ("POST", "/v1/embeddings", "/v1/embeddings"),
        ("POST", "/v1/rerank", "/v1/rerank"),
        ("POST", "/v1/models/a.b-c:predict", "/v1/models/{model}:predict"),
        ("POST", "/v1/models/iris:explain", "/v1/models/{model}:explain"),
        ("GET", "/v1/models/iris", "/v1/models/{model}"),
        ("GET", "/v2", "/v2"),
        ("GET", "/v2/models/iris", "/v2/models/{model}"),
        ("GET", "/v2/models/iris/versions/1", "/v2/models/{model}/versions/{version}"),
        ("GET", "/v2/models/iris/versions/1/ready", "/v2/models/{model}/versions/{version}/ready"),
        ("POST", "/v2/models/iris/versions/1/infer", "/v2/models/{model}/versions/{version}/infer"),
        ("POST", "/v2/models/iris/generate_stream", "/v2/models/{model}/generate_stream"),
        ("POST", "/v2/repository/models/iris/unload", "/v2/repository/models/{model}/unload"),
    ],
)
def test_path_finds_its_route(method: str, path: str, route: str) -> None:
    scope = {"type": "http", "method": method, "path": path}

    found = next(one for one in ROUTES if one.matches(scope)[0] is Match.FULL)

    assert found.path == route


async def test_only_predictions_leave_records(door: Door) -> None:
    await door.http.get("/v2/models/echo")
    await door.http.get("/v1/models")
    await door.http.post("/v1/completions", content=b"{")
    await door.http.post("/v2/models/nobody/infer", json={})

    assert [record["route"] for record in await door.records(2)] == ["/v1/completions", "/v2/models/{model}/infer"]

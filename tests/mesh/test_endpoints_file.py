"""Static endpoints: what is read, and what each mistake is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.endpoints_file import parse_endpoints
from mesh.errors import InvalidInput
from mesh.v1.registry_pb2 import SERVICE_KIND_EXPLAINER, SERVICE_KIND_PREDICTOR
from mesh.view import MeshView

DEPLOYMENTS = """
deployments:
  - {name: iris, predictor: {model_format: sklearn, storage_uri: "file:///m"}}
  - name: chat
    predictor: {model_format: llm, storage_uri: "file:///n", model_version: "3", versions: [{model_version: "2"}]}
"""


def read(tmp_path: Path, endpoints: str) -> MeshView:
    return parse_endpoints((endpoints + DEPLOYMENTS).encode(), str(tmp_path / "endpoints.yaml"))


def test_predictors_serve_what_they_list_or_everything(tmp_path: Path) -> None:
    view = read(
        tmp_path,
        """
endpoints:
  predictor: ["h:1", {address: "h:2", models: [chat]}]
  explainer: ["h:3"]
""",
    )

    predictors = {r.address: r for r in view.replicas_of(SERVICE_KIND_PREDICTOR)}
    assert [model.name for model in predictors["h:1"].models] == ["iris", "chat", "chat"]
    assert [(model.name, model.version, model.ready) for model in predictors["h:2"].models] == [
        ("chat", "3", True),
        ("chat", "2", True),
    ]
    [explainer] = view.replicas_of(SERVICE_KIND_EXPLAINER)
    assert not explainer.models


@pytest.mark.parametrize(
    ("endpoints", "sentence"),
    [
        ("", "endpoints must be a mapping"),
        ("endpoints: {router: ['h:1']}", "endpoints.router is not a service; the services are transformer, predictor"),
        ("endpoints: {predictor: 'h:1'}", "endpoints.predictor must be a list"),
        ("endpoints: {predictor: ['h']}", "endpoints.predictor[0] 'h' is not host:port"),
        ("endpoints: {predictor: [3]}", "endpoints.predictor[0] must be host:port or"),
        ("endpoints: {predictor: [{address: 'h:1', port: 3}]}", "endpoints.predictor[0] must be host:port or"),
        ("endpoints: {predictor: [{address: 'h:1', models: [x]}]}", "models has 'x', which is no deployment"),
    ],
)
def test_mistake_is_named_with_file_and_field(tmp_path: Path, endpoints: str, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, endpoints)

    assert caught.value.message.startswith(str(tmp_path / "endpoints.yaml"))
    assert sentence in caught.value.message

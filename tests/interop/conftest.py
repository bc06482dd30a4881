"""One mesh for all foreign clients: real models beside identities of every datatype."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.train_iris import train
from tests.interop.served import Deployment, Served, served


@pytest.fixture(scope="session")
def mesh(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serves the models that the scenarios name."""
    folder = tmp_path_factory.mktemp("interop")
    (folder / "nothing").write_bytes(b"an identity has no weights")
    train(folder / "iris")
    nothing = (folder / "nothing").as_uri()
    deployments = [
        deployment("identity", "identity", nothing),
        deployment("spare", "identity", nothing),
        deployment("countdown", "countdown", nothing),
        deployment("iris", "sklearn", (folder / "iris").as_uri(), explainer={"method": "shapley"}),
        deployment("smollm2", "llm", smollm2_gguf.as_uri(), steps=["chat_template"]),
    ]
    with served(folder, deployments) as running:
        yield running


def deployment(
    name: str,
    model_format: str,
    uri: str,
    steps: list[str] | None = None,
    explainer: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> Deployment:
    described: dict[str, object] = {
        "name": name,
        "predictor": {"model_format": model_format, "storage_uri": uri, "options": options or {}},
        "transformer": {"steps": steps or []},
    }
    return described | ({} if explainer is None else {"explainer": explainer})

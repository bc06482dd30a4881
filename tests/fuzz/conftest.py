"""How much is fuzzed, and the mesh that bears it.

`pytest tests/fuzz --fuzz-cases 200000 --fuzz-seed 7` looks further than CI does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from examples.train_iris import train
from tests.fuzz import watching
from tests.interop.conftest import deployment
from tests.interop.served import Served, served

NUM_CASES = 20_000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-cases", type=int, default=NUM_CASES, help="Cases of tests/fuzz in all.")
    parser.addoption("--fuzz-seed", type=int, default=0, help="Seed of the cases of tests/fuzz.")


@dataclass(frozen=True)
class Effort:
    """num_cases: of all tests together; each takes its share."""

    num_cases: int
    seed: int

    def share(self, of_all: float) -> int:
        return round(self.num_cases * of_all)


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> Effort:
    """What the command line asks for."""
    return Effort(request.config.getoption("--fuzz-cases"), request.config.getoption("--fuzz-seed"))


@pytest.fixture(scope="session")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A mesh that no other test uses."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "nothing").write_bytes(b"")
    train(folder / "iris")
    nothing = (folder / "nothing").as_uri()
    deployments = [
        deployment("identity", "identity", nothing),
        deployment("spare", "identity", nothing),
        deployment("countdown", "countdown", nothing),
        deployment("iris", "sklearn", (folder / "iris").as_uri(), explainer={"method": "shapley"}),
        deployment("hash", "llm", nothing, steps=["chat_template"], options={"max_context_tokens": "128"}),
    ]
    with served(folder, deployments, predictor="tests.fuzz.fuzzed_predictor") as mesh:
        _warm(mesh)
        yield mesh


def _warm(mesh: Served) -> None:
    """Have the services open the streams that they keep to one another."""
    tensor = {"name": "int32_in", "datatype": "INT32", "shape": [1, 1], "data": [1]}
    for model in ("identity", "iris", "countdown"):
        httpx.post(f"{mesh.url}/v2/models/{model}/infer", json={"inputs": [tensor]})
    httpx.post(f"{mesh.url}/v1/completions", json={"model": "hash", "prompt": "a", "max_tokens": 2})
    httpx.post(f"{mesh.url}/v1/models/iris:explain", json={"instances": [[5.1, 3.5, 1.4, 0.2]]}, timeout=30)


@pytest.fixture
def unharmed(fuzzed: Served) -> Iterator[Served]:
    """The mesh, which must be as it was when the test has ended."""
    before = watching.look(fuzzed)
    yield fuzzed
    found = watching.faults(fuzzed, before)
    assert not found, "\n".join(found)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop that lives as long as a test's connections."""
    with asyncio.Runner() as running:
        yield running

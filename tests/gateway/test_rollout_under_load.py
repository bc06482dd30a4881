"""A rollout while clients ask without pause: canary, promotion, rollback; no request fails, and each change is seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cli.__main__ import main
from mesh.testing import eventually
from tests.gateway.test_dispatch import Headers, by_grpc_generate, by_grpc_infer, by_openai, by_stream_infer, by_v2
from tests.gateway.traffic_rig import TrafficMesh, VersionedPredictor, deployment, traffic_mesh

Front = Callable[[TrafficMesh, Headers], Awaitable[str]]
FRONTS: tuple[Front, ...] = (by_v2, by_openai, by_grpc_infer, by_stream_infer, by_grpc_generate)
MODELS = ("iris", "chat")


class Clients:
    """One client a front, each asking again and again. A request that fails ends the test."""

    def __init__(self, mesh: TrafficMesh) -> None:
        self._mesh = mesh
        self._answers: list[list[str]] = [[] for _ in FRONTS]

    async def ask(self, number: int) -> None:
        while True:
            self._answers[number].append(await FRONTS[number](self._mesh, {}))

    async def next_answers(self, count: int = 10) -> list[list[str]]:
        """Of each client, `count` answers to requests that it has not made yet."""
        # The request that is on its way was made before.
        begins = [len(answers) + 1 for answers in self._answers]
        await eventually(
            lambda: all(len(a) >= b + count for a, b in zip(self._answers, begins, strict=True)), timeout_s=60
        )
        return [answers[begin : begin + count] for answers, begin in zip(self._answers, begins, strict=True)]


@asynccontextmanager
async def asking(mesh: TrafficMesh) -> AsyncIterator[Clients]:
    clients = Clients(mesh)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(clients.ask(number)) for number in range(len(FRONTS))]
        yield clients
        for task in tasks:
            task.cancel()


async def meshserve(mesh: TrafficMesh, verb: str, *arguments: str) -> None:
    """The command for both models; returns once the gateway knows of the change."""
    for model in MODELS:

        def run(model: str = model) -> None:
            with pytest.raises(SystemExit) as ended:
                main([verb, model, "--registry", mesh.registry_address, *arguments])
            assert not ended.value.code

        await asyncio.to_thread(run)
        await mesh.seen(mesh.control.view.deployments[model])


def flat(answers: list[list[str]]) -> set[str]:
    return {version for of_one in answers for version in of_one}


@pytest.mark.timeout(120)
async def test_no_request_is_lost_and_every_change_is_seen_at_once(tmp_path: Path) -> None:
    async with traffic_mesh(tmp_path) as mesh:
        # One has both versions; the others one each, as while a rollout of predictors is under way.
        for versions in (("1", "2"), ("1",), ("2",)):
            await mesh.serve(VersionedPredictor(versions), *MODELS)
        await mesh.apply(deployment("iris", "12"), deployment("chat", "12", model_format="llm"))

        async with asking(mesh) as clients:
            assert flat(await clients.next_answers()) == {"1"}
            await meshserve(mesh, "traffic", "--canary", "2=50")
            assert flat(await clients.next_answers(30)) == {"1", "2"}
            await meshserve(mesh, "promote")
            assert flat(await clients.next_answers()) == {"2"}
            await meshserve(mesh, "rollback")
            assert flat(await clients.next_answers()) == {"1"}
            await meshserve(mesh, "traffic", "--canary", "2=100")
            assert flat(await clients.next_answers()) == {"2"}
            await meshserve(mesh, "rollback")
            assert flat(await clients.next_answers()) == {"1"}

        seen = {model: mesh.gateway.view.deployments[model].generation for model in MODELS}
        assert seen == {"iris": 6, "chat": 6}

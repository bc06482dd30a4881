"""A generation whose predictor dies: real engines, and a stream that is cut after every number of messages."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from mesh import generation_stream
from mesh.pool import EndpointPool
from mesh.testing import eventually
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Deployment, Replica, ServedModel
from mesh.view import MeshView
from tests.e2e.breakable import Door, door_to
from tests.mesh.generation_rig import whole
from tests.predictor.hash_predictor import running_hash_predictor
from tests.predictor.running import RunningPredictor

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

NUM_TOKENS = 16
STEP_S = 0.003


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def predictors(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[RunningPredictor]]:
    """Two predictors of the same model."""
    async with AsyncExitStack() as stack:
        starting = [
            stack.enter_async_context(running_hash_predictor(tmp_path_factory.mktemp(name), step_s=STEP_S))
            for name in ("one", "two")
        ]
        yield list(await asyncio.gather(*starting))


def view_of(addresses: dict[str, str]) -> MeshView:
    models = [ServedModel(name="hash", version="1", ready=True)]
    return MeshView(
        deployments={"hash": Deployment(name="hash")},
        replicas={
            id_: Replica(id=id_, kind=SERVICE_KIND_PREDICTOR, address=address, models=models)
            for id_, address in addresses.items()
        },
    )


class Mesh:
    """Predictors behind doors, and a pool that sees those of `view`."""

    def __init__(self, doors: dict[str, Door]) -> None:
        self.doors = doors
        self.view = view_of({name: door.address for name, door in doors.items()})
        self.pool = EndpointPool(lambda: self.view, policy="round_robin")
        self.num_begun = 0

    async def generate(self, request: lm.GenerateRequest, slam_after: int = -1) -> list[lm.GenerateResponse]:
        """All messages; after `slam_after` of them the door of whoever answers is slammed."""
        answers = generation_stream.generate(
            self.pool, SERVICE_KIND_PREDICTOR, "hash", request.SerializeToString(), lambda: 30.0
        )
        messages: list[lm.GenerateResponse] = []
        async with aclosing(answers):
            async for message, _ in answers:
                messages.append(message)
                self.num_begun += len(messages) == 1
                if len(messages) == slam_after:
                    self.busy().slam()
        for door in self.doors.values():
            door.open()
        return messages

    def busy(self) -> Door:
        """The door that a call goes through now."""
        [endpoint] = [one for one in self.pool._endpoints._present.values() if one.in_flight]
        return self.doors[endpoint.id]


@asynccontextmanager
async def mesh_of(predictors: list[RunningPredictor]) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        doors = {
            f"p{number}": await stack.enter_async_context(door_to(predictor.addresses["grpc_address"]))
            for number, predictor in enumerate(predictors)
        }
        mesh = Mesh(doors)
        stack.push_async_callback(mesh.pool.close)
        yield mesh


def asked(text: str = "The sea", **sampling: object) -> lm.GenerateRequest:
    parameters = lm.SamplingParameters(**{"max_tokens": NUM_TOKENS, "ignore_eos": True, **sampling})  # type: ignore[arg-type]
    return lm.GenerateRequest(model_name="hash", text=text, sampling=parameters)


def outputs(messages: list[lm.GenerateResponse], first: int = 0, n: int = 1) -> list[lm.GenerateResponse]:
    """What was said of each output, without what a cache did."""
    joined = [whole(messages, index) for index in range(first, first + n)]
    for one in joined:
        one.usage.cached_tokens = 0
    return joined


def _with(request: lm.GenerateRequest, continue_from: list[int]) -> lm.GenerateRequest:
    request.continue_from.extend(continue_from)
    return request


CASES = {
    "greedy": asked(temperature=0),
    "seeded": asked(temperature=1, seed=7),
    "logprobs": asked(temperature=1, seed=8, logprobs=3, prompt_logprobs=2),
    "stop across pieces": asked(temperature=0, stop=["ab", "bc", "cab", "zzzz"], min_tokens=8),
    "penalties": asked(temperature=0, presence_penalty=1, repetition_penalty=1.2),
    "a client's continue_from": _with(asked(temperature=0), [97, 98, 99]),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_stream_cut_anywhere_says_what_it_would_have_said(
    predictors: list[RunningPredictor], case: str
) -> None:
    request = CASES[case]
    async with mesh_of(predictors) as mesh:
        expected = outputs(await mesh.generate(request))
        num_moved = 0

        for slam_after in range(1, NUM_TOKENS):
            messages = await mesh.generate(request, slam_after)

            assert outputs(messages) == expected, f"cut after {slam_after} messages"
            assert messages[-1].timings.first_token_s <= messages[-1].timings.total_s
            num_moved += any(message.moved_to for message in messages)

    # A cut may come too late: when the rest is on its way to the reader.
    assert num_moved > NUM_TOKENS / 2


async def test_a_drawn_seed_is_kept(predictors: list[RunningPredictor]) -> None:
    async with mesh_of(predictors) as mesh:
        messages = await mesh.generate(asked(temperature=1), slam_after=5)
        again = await mesh.generate(asked(temperature=1, seed=messages[0].start.seed))

    assert outputs(messages) == outputs(again)


async def test_several_outputs_go_on_each_from_its_own_place(predictors: list[RunningPredictor]) -> None:
    request = asked(temperature=1, seed=3, n=3, sample_index=2, logprobs=0, ignore_eos=False)
    async with mesh_of(predictors) as mesh:
        uncut = await mesh.generate(request)
        for slam_after in range(1, len(uncut), 3):
            messages = await mesh.generate(request, slam_after)

            assert outputs(messages, first=2, n=3) == outputs(uncut, first=2, n=3), f"cut after {slam_after} messages"


@pytest.mark.parametrize(
    ("how", "view_is_told"), [(signal.SIGKILL, False), (signal.SIGTERM, True), (signal.SIGTERM, False)]
)
async def test_a_killed_or_drained_predictor_hands_its_streams_over(
    predictors: list[RunningPredictor], tmp_path: Path, how: signal.Signals, view_is_told: bool
) -> None:
    request = asked(temperature=0, max_tokens=600)
    async with mesh_of(predictors[:1]) as mesh:
        staying = mesh.view
        expected = outputs(await mesh.generate(request))
        async with (
            running_hash_predictor(tmp_path, step_s=STEP_S) as leaving,
            door_to(leaving.addresses["grpc_address"]) as door,
        ):
            mesh.doors["leaving"] = door
            mesh.view = view_of({"leaving": door.address})
            running = [asyncio.create_task(mesh.generate(request)) for _ in range(4)]
            await eventually(lambda: mesh.num_begun == 1 + len(running), 30)
            mesh.view = MeshView(staying.deployments, {**staying.replicas, **mesh.view.replicas})
            if view_is_told:
                mesh.view = staying  # it has given its lease back
                mesh.pool.notice(mesh.view)
            leaving.process.send_signal(how)
            status = await asyncio.to_thread(leaving.process.wait, 15)
            was_running = [not task.done() for task in running]
            results = await asyncio.gather(*running)

    assert all(was_running)
    assert status == (-signal.SIGKILL if how is signal.SIGKILL else 0)
    assert [outputs(messages) for messages in results] == [expected] * len(running)
    assert all([bool(message.moved_to) for message in messages].count(True) == 1 for messages in results)

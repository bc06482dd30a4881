"""Loading on demand: one load for all who wait, idle models leave, failures are tried again, nobody is forgotten."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import context
from mesh.context import RequestContext
from mesh.errors import Conflict, CorruptArtifact, MeshError, ModelNotReady, ModelTooLarge, Overloaded, Unavailable
from mesh.retry import Backoff
from predictor.model_entry import LOADING_ON_DEMAND, ON_DEMAND
from predictor.repository import ModelState
from tests.predictor.loaded_repository import Repository, until

SIZE = 1000


async def on_demand(*names: str, room_for: int = 2, **options: Any) -> Repository:
    """A repository in which each model takes SIZE bytes."""
    repository = Repository(*names, memory_budget_bytes=room_for * SIZE, **options)
    await repository.load_all()
    return repository


async def use(repository: Repository, name: str, version: str = "") -> str:
    async with repository.hold(name, version) as model:
        return f"{model.spec.name}:{model.spec.version}"


async def holding(repository: Repository, name: str, until_set: asyncio.Event) -> None:
    async with repository.hold(name):
        await until_set.wait()


def in_memory(repository: Repository) -> list[str]:
    return [model.spec.name for model in repository.loaded()]


async def test_nothing_is_loaded_at_the_start_and_all_is_servable() -> None:
    repository = await on_demand("a", "b")

    assert repository.is_ready
    assert repository.loader.loads == []
    assert repository.told == [("a", True), ("b", True)]
    assert repository.is_model_ready("a")
    assert repository.state("a") == (ModelState.READY, ON_DEMAND)


async def test_the_first_request_loads_and_the_next_finds_it_loaded() -> None:
    repository = await on_demand("a", "b")

    assert [await use(repository, "a"), await use(repository, "a")] == ["a:1", "a:1"]

    assert repository.loader.loads == ["a:1"]
    assert repository.state("a") == (ModelState.READY, "")
    assert repository.memory_used_bytes == SIZE
    assert repository.told == [("a", True), ("b", True)]


async def test_requests_at_the_same_time_are_one_load_and_each_is_answered() -> None:
    repository = await on_demand("a")
    repository.loader.gates["a"] = asyncio.Event()
    requests = [asyncio.create_task(use(repository, "a")) for _ in range(50)]
    await until(lambda: repository.num_waiting == 50)
    assert repository.state("a") == (ModelState.READY, LOADING_ON_DEMAND)

    repository.loader.gates["a"].set()

    assert await asyncio.gather(*requests) == ["a:1"] * 50
    assert repository.loader.loads == ["a:1"]
    assert repository.num_waiting == 0


async def test_the_least_recently_used_leaves() -> None:
    repository = await on_demand("a", "b", "c")
    for name in ("a", "b", "a", "c"):
        await use(repository, name)

    assert in_memory(repository) == ["a", "c"]
    assert repository.loader.runtimes["b"].is_unloaded
    assert repository.state("b") == (ModelState.READY, ON_DEMAND)
    assert repository.loader.most_bytes <= 2 * SIZE
    assert [counts.evicted for _, counts in repository.load_counts()] == [0, 1, 0]


async def test_a_model_in_use_is_not_evicted_and_who_needs_its_room_waits_for_it() -> None:
    repository = await on_demand("a", "b", room_for=1)
    release = asyncio.Event()
    holder = asyncio.create_task(holding(repository, "a", release))
    await until(lambda: in_memory(repository) == ["a"])
    waiter = asyncio.create_task(use(repository, "b"))
    await until(lambda: repository.num_waiting == 1)
    assert in_memory(repository) == ["a"]

    release.set()

    assert await waiter == "b:1"
    await holder
    assert repository.loader.most_bytes <= SIZE


async def test_those_who_waited_use_the_model_before_it_can_be_evicted_again() -> None:
    repository = await on_demand("a", "b", "c", room_for=1)

    answers = await asyncio.gather(*(use(repository, name) for name in "abcabcabc"))

    assert answers == [f"{name}:1" for name in "abcabcabc"]
    assert sorted(repository.loader.loads) == ["a:1", "b:1", "c:1"]


async def test_a_request_that_finds_no_room_in_its_time_is_overloaded() -> None:
    repository = await on_demand("a", "b", room_for=1, load_wait_s=0.01)
    async with repository.hold("a"):
        with pytest.raises(Overloaded, match="did not become free within"):
            await use(repository, "b")

        assert repository.state("b") == (ModelState.READY, ON_DEMAND)
    assert await use(repository, "b") == "b:1"


async def test_a_request_waits_no_longer_than_its_deadline() -> None:
    repository = await on_demand("a", "b", room_for=1)
    async with repository.hold("a"):
        deadline = asyncio.get_running_loop().time() + 0.05
        with context.bind(RequestContext("r", deadline)), pytest.raises(Overloaded):
            await use(repository, "b")


async def test_a_slow_load_goes_on_when_its_request_has_no_time_left() -> None:
    repository = await on_demand("a", load_wait_s=0.01)
    repository.loader.gates["a"] = asyncio.Event()
    with pytest.raises(ModelNotReady, match=r"model 'a' was not loaded within 0\.01 s"):
        await use(repository, "a")

    repository.loader.gates["a"].set()

    await until(lambda: in_memory(repository) == ["a"])


async def test_room_is_not_wanted_any_more_when_every_request_for_it_is_gone() -> None:
    repository = await on_demand("a", "b", room_for=1)
    release = asyncio.Event()
    holder = asyncio.create_task(holding(repository, "a", release))
    await until(lambda: in_memory(repository) == ["a"])
    waiters = [asyncio.create_task(use(repository, "b")) for _ in range(3)]
    await until(lambda: repository.num_waiting == 3)

    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    release.set()
    await holder

    assert in_memory(repository) == ["a"]
    assert repository.loader.loads == ["a:1"]
    assert await use(repository, "b") == "b:1"


async def test_a_request_that_is_cancelled_as_its_model_comes_holds_nothing() -> None:
    repository = await on_demand("a", "b", room_for=1)
    repository.loader.gates["a"] = asyncio.Event()
    waiter = asyncio.create_task(use(repository, "a"))
    await until(lambda: repository.num_waiting == 1)
    repository.loader.gates["a"].set()
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)

    assert await use(repository, "b") == "b:1"


async def test_only_so_many_requests_may_wait() -> None:
    repository = await on_demand("a", max_waiting=2)
    repository.loader.gates["a"] = asyncio.Event()
    waiters = [asyncio.create_task(use(repository, "a")) for _ in range(2)]
    await until(lambda: repository.num_waiting == 2)

    with pytest.raises(Overloaded, match="2 requests wait for models to be loaded"):
        await use(repository, "a")

    repository.loader.gates["a"].set()
    await asyncio.gather(*waiters)


async def test_what_can_never_fit_is_refused_at_once_and_stays_refused() -> None:
    repository = await on_demand("a", "big", room_for=2)
    repository.loader.memory_bytes["big"] = 3 * SIZE
    await use(repository, "a")

    for _ in range(2):
        with pytest.raises(ModelNotReady, match="model 'big' is unavailable: .* MiB of memory are needed"):
            await use(repository, "big")

    assert repository.state("big")[0] is ModelState.UNAVAILABLE
    assert repository.told[-1] == ("big", False)
    assert repository.loader.loads == ["a:1", "big:1"]
    assert repository.memory_used_bytes == SIZE
    with pytest.raises(ModelTooLarge):
        await repository.load("big")


async def test_a_model_larger_than_its_file_has_others_evicted_once_it_is_known() -> None:
    repository = await on_demand("a", "b", "big", room_for=3)
    repository.loader.memory_bytes["big"] = 2 * SIZE
    for name in ("a", "b", "big"):
        await use(repository, name)
    await until(lambda: repository.memory_used_bytes == 3 * SIZE)
    assert in_memory(repository) == ["b", "big"]

    await use(repository, "a")
    await until(lambda: repository.memory_used_bytes == 2 * SIZE or in_memory(repository) == ["a", "big"])


async def test_a_model_larger_than_its_file_is_loaded_again_when_its_room_is_free() -> None:
    repository = await on_demand("a", "big", room_for=2)
    repository.loader.memory_bytes["big"] = 2 * SIZE
    release = asyncio.Event()
    holder = asyncio.create_task(holding(repository, "a", release))
    await until(lambda: in_memory(repository) == ["a"])
    waiter = asyncio.create_task(use(repository, "big"))
    await until(lambda: repository.loader.num_loads == 2 and repository.memory_used_bytes == SIZE)

    release.set()

    assert await waiter == "big:1"
    await holder
    assert repository.loader.loads == ["a:1", "big:1", "big:1"]
    assert repository.loader.max_loading["big:1"] == 1


async def test_a_failed_load_is_remembered_and_tried_again_by_itself() -> None:
    repository = await on_demand("a", backoff=lambda: Backoff(0.02, 0.02))
    repository.loader.failures["a"] = CorruptArtifact("wrong digest")
    with pytest.raises(ModelNotReady, match="model 'a' is unavailable: wrong digest"):
        await use(repository, "a")
    num_loads = repository.loader.num_loads
    with pytest.raises(ModelNotReady, match="wrong digest"):
        await use(repository, "a")
    assert repository.loader.num_loads == num_loads
    assert repository.state("a") == (ModelState.UNAVAILABLE, "wrong digest")
    assert repository.told[-1] == ("a", False)

    await until(lambda: repository.loader.num_loads >= 3)
    repository.loader.failures.clear()

    await until(lambda: repository.told[-1] == ("a", True))
    assert await use(repository, "a") == "a:1"
    await repository.close()


async def test_a_loader_that_is_overloaded_has_failed_and_is_not_out_of_room() -> None:
    repository = await on_demand("a")
    repository.loader.failures["a"] = Overloaded("64 models are tried; no more are at the same time")

    with pytest.raises(ModelNotReady, match="model 'a' is unavailable: 64 models are tried"):
        await use(repository, "a")

    assert repository.state("a")[0] is ModelState.UNAVAILABLE
    await repository.close()


async def test_the_delay_grows_and_begins_anew_after_a_success() -> None:
    waits: list[tuple[float, float]] = []

    class Recorded(Backoff):
        def next_s(self) -> float:
            waits.append((self._ceiling_s, super().next_s()))
            return 0.001

    repository = await on_demand("a", backoff=lambda: Recorded(1.0, 300.0, random.Random(1)))
    repository.loader.failures["a"] = CorruptArtifact("wrong digest")
    with pytest.raises(ModelNotReady):
        await use(repository, "a")
    await until(lambda: len(waits) >= 3)
    assert [ceiling for ceiling, _ in waits[:3]] == [1, 2, 4]
    repository.loader.failures.clear()
    await until(lambda: in_memory(repository) == ["a"])
    repository.loader.failures["a"] = CorruptArtifact("wrong digest")
    await repository.unload("a")
    waits.clear()

    with pytest.raises(CorruptArtifact):
        await repository.load("a")

    assert waits[0][0] == 1
    await repository.close()


async def test_an_ordered_load_tries_at_once() -> None:
    repository = await on_demand("a")
    repository.loader.failures["a"] = CorruptArtifact("wrong digest")
    with pytest.raises(ModelNotReady):
        await use(repository, "a")
    repository.loader.failures.clear()

    await repository.load("a")

    assert await use(repository, "a") == "a:1"


async def test_an_ordered_load_pins_nothing() -> None:
    repository = await on_demand("a", "b", room_for=1)
    await repository.load("a")

    await use(repository, "b")

    assert in_memory(repository) == ["b"]


async def test_an_unloaded_model_stays_out_until_it_is_loaded() -> None:
    repository = await on_demand("a", "b")
    await use(repository, "a")

    await repository.unload("a")
    await repository.unload("b")

    assert repository.memory_used_bytes == 0
    for name in ("a", "b"):
        with pytest.raises(ModelNotReady, match=f"model '{name}' is unavailable: unloaded"):
            await use(repository, name)
        assert not repository.is_model_ready(name)
    await repository.load("b")
    assert await use(repository, "b") == "b:1"


async def test_an_unload_ends_the_retries() -> None:
    repository = await on_demand("a", backoff=lambda: Backoff(0.01, 0.01))
    repository.loader.failures["a"] = CorruptArtifact("wrong digest")
    with pytest.raises(ModelNotReady):
        await use(repository, "a")

    await repository.unload("a")

    num_loads = repository.loader.num_loads
    await asyncio.sleep(0.03)
    assert repository.loader.num_loads == num_loads
    assert repository.state("a") == (ModelState.UNAVAILABLE, "unloaded")


async def test_an_unload_while_in_use_waits_for_the_users() -> None:
    repository = await on_demand("a")
    async with repository.hold("a"):
        unload = asyncio.create_task(repository.unload("a"))
        await until(lambda: repository.state("a")[0] is ModelState.UNLOADING)
        with pytest.raises(ModelNotReady, match="model 'a' is unloading"):
            await use(repository, "a")
        assert not repository.loader.runtimes["a"].is_unloaded
    await unload

    assert repository.loader.runtimes["a"].is_unloaded


async def test_what_a_request_loads_is_not_unloaded_meanwhile() -> None:
    repository = await on_demand("a")
    repository.loader.gates["a"] = asyncio.Event()
    waiter = asyncio.create_task(use(repository, "a"))
    await until(lambda: repository.num_waiting == 1)

    with pytest.raises(Conflict):
        await repository.unload("a")

    repository.loader.gates["a"].set()
    assert await waiter == "a:1"


async def test_a_reload_without_room_for_both_evicts_the_old_one_first() -> None:
    repository = await on_demand("a", room_for=1)
    await use(repository, "a")
    old = repository.loader.runtimes["a"]

    await repository.load("a")

    assert old.is_unloaded
    assert repository.loader.most_bytes <= SIZE
    assert await use(repository, "a") == "a:1"


async def test_versions_are_loaded_and_evicted_each_for_itself() -> None:
    repository = await on_demand("a:1", "a:2", "b", room_for=2)

    assert [await use(repository, "a"), await use(repository, "a", "2"), await use(repository, "b")] == [
        "a:1",
        "a:2",
        "b:1",
    ]

    assert [(model.spec.name, model.spec.version) for model in repository.loaded()] == [("a", "2"), ("b", "1")]


async def test_metadata_of_an_evicted_model_is_known_without_a_load() -> None:
    repository = await on_demand("a", "b", room_for=1)
    first = await repository.metadata("a")
    await use(repository, "b")

    assert await repository.metadata("a") == first
    assert repository.loader.loads == ["a:1", "b:1"]
    await repository.unload("a")
    with pytest.raises(ModelNotReady, match="unloaded"):
        await repository.metadata("a")


async def test_counts_go_on_when_an_evicted_model_is_back() -> None:
    repository = await on_demand("a", "b", room_for=1)
    for name in ("a", "b", "a"):
        async with repository.hold(name) as model:
            with model.statistics.request():
                pass

    assert repository.get("a").statistics.success.count == 2


async def test_a_lost_model_that_is_evicted_can_be_loaded_again() -> None:
    repository = await on_demand("a", "b", room_for=1)
    await use(repository, "a")
    repository.loader.on_health["a"](False, "the engine died")
    with pytest.raises(ModelNotReady, match="the engine died"):
        await use(repository, "a")

    await use(repository, "b")

    await until(lambda: repository.told[-1] == ("a", True))
    assert await use(repository, "a") == "a:1"


async def test_close_answers_everyone_and_leaves_nothing_behind() -> None:
    repository = await on_demand("a", "b", "c", "d", room_for=2)
    repository.loader.gates["b"] = asyncio.Event()
    repository.loader.failures["d"] = CorruptArtifact("wrong digest")
    await use(repository, "a")
    with pytest.raises(ModelNotReady):
        await use(repository, "d")
    waiters = [asyncio.create_task(use(repository, name)) for name in ("b", "b")]
    await until(lambda: repository.num_waiting == 2)

    await repository.close()

    for waiter in waiters:
        with pytest.raises(ModelNotReady, match="the load of model 'b' was stopped"):
            await waiter
    with pytest.raises(Unavailable, match="the predictor is stopping"):
        await use(repository, "c")
    assert repository.loader.bytes_in_memory == 0
    assert repository.memory_used_bytes == 0
    assert {task.get_name() for task in asyncio.all_tasks()} == {asyncio.current_task().get_name()}  # type: ignore[union-attr]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["use", "use", "use", "use", "cancel", "load", "unload", "fail", "mend", "pause"]),
        st.sampled_from("abcde"),
        st.integers(0, 3),
    ),
    max_size=60,
)


class Schedule:
    """Plays random actions on a repository, and looks at every hold whether its model is in memory."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.requests: list[asyncio.Task[str]] = []
        self.orders: list[asyncio.Task[None]] = []

    async def use(self, repository: Repository, name: str) -> str:
        async with repository.hold(name) as model:
            for _ in range(self.rng.randrange(4)):
                await asyncio.sleep(0)
                assert not model.runtime.is_unloaded, "a model in use was unloaded"  # type: ignore[attr-defined]
            await model.runtime.infer({"fp32_in": np.ones((1, 2), np.float32)})
            return model.spec.name

    async def act(self, repository: Repository, action: str, name: str, turns: int) -> None:
        def order(verb: Callable[[str], Awaitable[None]]) -> None:
            self.orders.append(asyncio.ensure_future(verb(name)))  # type: ignore[arg-type]

        match action:
            case "use":
                self.requests.append(asyncio.create_task(self.use(repository, name)))
            case "cancel" if self.requests:
                self.rng.choice(self.requests).cancel()
            case "load":
                order(repository.load)
            case "unload":
                order(repository.unload)
            case "fail":
                repository.loader.failures[name] = CorruptArtifact("wrong digest")
            case "mend":
                repository.loader.failures.pop(name, None)
        for _ in range(turns):
            await asyncio.sleep(0)

    async def play(self, repository: Repository, actions: list[tuple[str, str, int]]) -> None:
        for action, name, turns in actions:
            await self.act(repository, action, name, turns)
        outcomes = await asyncio.gather(*self.requests, *self.orders, return_exceptions=True)
        for outcome in outcomes:
            assert outcome is None or isinstance(outcome, str | MeshError | asyncio.CancelledError), repr(outcome)


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS, seed=st.integers(0, 1 << 16), room_for=st.integers(1, 3))
def test_any_schedule_keeps_the_rules(actions: list[tuple[str, str, int]], seed: int, room_for: int) -> None:
    async def scenario() -> None:
        repository = await on_demand(*"abcde", room_for=room_for, backoff=lambda: Backoff(0.001, 0.002))
        async with asyncio.timeout(30):
            await Schedule(seed).play(repository, actions)
            assert repository.num_waiting == 0
            await repository.close()
        loader = repository.loader
        assert loader.most_bytes <= room_for * SIZE, "above the budget"
        assert all(most == 1 for most in loader.max_loading.values()), "two loads of one model at the same time"
        assert loader.bytes_in_memory == repository.memory_used_bytes == 0
        assert len(asyncio.all_tasks()) == 1, "a task was left behind"

    asyncio.run(scenario())

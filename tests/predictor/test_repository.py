"""The repository of models: states, failures that stay where they are, loads that happen once, models in use."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import (
    Conflict,
    CorruptArtifact,
    Internal,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
)
from predictor.repository import ModelState
from tests.predictor.loaded_repository import Repository, until


async def test_every_model_is_loaded_and_told_to_be_ready() -> None:
    repository = Repository("a", "b")
    assert not repository.is_ready

    await repository.load_all()

    assert repository.is_ready
    assert repository.state("a") == repository.state("b") == (ModelState.READY, "")
    assert repository.told == [("a", False), ("a", True), ("b", False), ("b", True)]
    assert repository.get("a").spec.name == "a"
    assert repository.is_model_ready("a", "1")


async def test_one_broken_model_does_not_stop_the_others() -> None:
    repository = Repository("broken", "good", "buggy")
    repository.loader.failures["broken"] = CorruptArtifact("model.gguf is truncated")
    repository.loader.failures["buggy"] = ZeroDivisionError()

    await repository.load_all()

    assert repository.is_ready
    assert repository.is_model_ready("good")
    assert repository.state("broken") == (ModelState.UNAVAILABLE, "model.gguf is truncated")
    assert repository.state("buggy") == (ModelState.UNAVAILABLE, "an unexpected failure; the logs have it")
    with pytest.raises(ModelNotReady, match=r"model 'broken' is unavailable: model\.gguf is truncated"):
        repository.get("broken")


async def test_a_model_is_not_ready_while_it_loads() -> None:
    repository = Repository("slow", "quick")
    repository.loader.gates["slow"] = asyncio.Event()
    loading = asyncio.create_task(repository.load_all())

    await until(lambda: repository.is_model_ready("quick"))

    assert repository.state("slow") == (ModelState.LOADING, "")
    assert not repository.is_ready
    with pytest.raises(ModelNotReady, match="model 'slow' is loading"):
        repository.get("slow")
    repository.loader.gates["slow"].set()
    await loading
    assert repository.is_model_ready("slow")


async def test_unknown_names_and_versions_are_told_apart() -> None:
    repository = Repository("a", "b")
    await repository.load_all()

    with pytest.raises(ModelNotFound, match="model 'c' is not deployed; deployed: a, b"):
        repository.get("c")
    with pytest.raises(ModelNotFound, match="model 'a' has no version 2; it has 1"):
        repository.get("a", "2")
    with pytest.raises(InvalidInput, match="'newest' is no version"):
        repository.get("a", "newest")
    assert not repository.is_model_ready("c")
    assert not repository.is_model_ready("a", "2")


async def test_loads_of_one_model_at_the_same_time_are_one_load() -> None:
    repository = Repository("a")
    repository.loader.gates["a"] = asyncio.Event()
    loads = [asyncio.create_task(repository.load("a")) for _ in range(3)]
    await until(lambda: repository.loader.num_loads > 0)

    repository.loader.gates["a"].set()
    await asyncio.gather(*loads)

    assert repository.loader.num_loads == 1


async def test_a_cancelled_caller_does_not_stop_the_load() -> None:
    repository = Repository("a")
    repository.loader.gates["a"] = asyncio.Event()
    caller = asyncio.create_task(repository.load("a"))
    await until(lambda: repository.loader.num_loads > 0)

    caller.cancel()
    repository.loader.gates["a"].set()

    await until(lambda: repository.is_model_ready("a"))


async def test_load_raises_what_went_wrong_and_can_be_tried_again() -> None:
    repository = Repository("a")
    repository.loader.failures["a"] = CorruptArtifact("wrong digest")
    with pytest.raises(CorruptArtifact, match="wrong digest"):
        await repository.load("a")
    repository.loader.failures["a"] = KeyError()
    with pytest.raises(Internal, match="model 'a' failed to load unexpectedly"):
        await repository.load("a")

    repository.loader.failures.clear()
    await repository.load("a")

    assert repository.state("a") == (ModelState.READY, "")


async def test_a_failed_reload_leaves_the_old_model_in_place() -> None:
    repository = Repository("a")
    await repository.load_all()
    model = repository.get("a")
    repository.loader.failures["a"] = CorruptArtifact("wrong digest")

    with pytest.raises(CorruptArtifact):
        await repository.load("a")

    assert repository.get("a") is model
    assert repository.state("a") == (ModelState.READY, "the last load failed: wrong digest")


async def test_a_reload_swaps_and_unloads_the_old_model_after_its_last_request() -> None:
    repository = Repository("a")
    await repository.load_all()
    old_runtime = repository.loader.runtimes["a"]

    async with repository.hold("a") as held:
        reload = asyncio.create_task(repository.load("a"))
        await until(lambda: repository.get("a") is not held)
        assert not old_runtime.is_unloaded
    await reload

    assert old_runtime.is_unloaded
    assert not repository.loader.runtimes["a"].is_unloaded


async def test_unload_waits_for_running_requests_and_refuses_new_ones() -> None:
    repository = Repository("a")
    await repository.load_all()
    runtime = repository.loader.runtimes["a"]

    async with repository.hold("a"):
        unload = asyncio.create_task(repository.unload("a"))
        await until(lambda: repository.state("a")[0] is ModelState.UNLOADING)
        with pytest.raises(ModelNotReady, match="model 'a' is unloading"):
            repository.get("a")
        assert not runtime.is_unloaded
    await unload

    assert runtime.is_unloaded
    assert repository.state("a") == (ModelState.UNAVAILABLE, "unloaded")
    assert repository.told[-1] == ("a", False)


async def test_unload_does_not_wait_for_ever() -> None:
    repository = Repository("a", unload_timeout_s=0.01)
    await repository.load_all()

    async with repository.hold("a"):
        await repository.unload("a")

    assert repository.loader.runtimes["a"].is_unloaded


async def test_unload_of_what_is_not_loaded_does_nothing() -> None:
    repository = Repository("a")

    await repository.unload("a")

    assert repository.told == []
    with pytest.raises(ModelNotFound):
        await repository.unload("b")


async def test_a_model_that_loads_is_not_unloaded() -> None:
    repository = Repository("a")
    repository.loader.gates["a"] = asyncio.Event()
    loading = asyncio.create_task(repository.load("a"))
    await until(lambda: repository.loader.num_loads > 0)

    with pytest.raises(Conflict, match="model 'a' is being loaded"):
        await repository.unload("a")

    repository.loader.gates["a"].set()
    await loading


async def test_a_model_that_is_lost_refuses_requests_until_it_is_back() -> None:
    repository = Repository("a")
    await repository.load_all()

    repository.loader.on_health["a"](False, "the engine died")
    await until(lambda: repository.told[-1] == ("a", False))

    assert repository.state("a") == (ModelState.UNAVAILABLE, "the engine died")
    with pytest.raises(ModelNotReady, match="model 'a' is unavailable: the engine died"):
        repository.get("a")
    repository.loader.on_health["a"](True, "")
    assert repository.is_model_ready("a")
    await until(lambda: repository.told[-1] == ("a", True))


async def test_the_health_of_a_model_that_was_replaced_does_not_matter() -> None:
    repository = Repository("a")
    await repository.load_all()
    old = repository.loader.on_health["a"]
    await repository.load("a")

    old(False, "the engine stopped")

    assert repository.is_model_ready("a")


async def test_drain_says_not_ready_and_serves_on() -> None:
    repository = Repository("a")
    await repository.load_all()

    repository.drain()

    assert not repository.is_ready
    assert not repository.is_model_ready("a")
    assert repository.get("a") is not None


async def test_close_stops_loading_and_unloads_all() -> None:
    repository = Repository("a", "slow")
    repository.loader.gates["slow"] = asyncio.Event()
    loading = asyncio.create_task(repository.load_all())
    await until(lambda: repository.is_model_ready("a"))

    await repository.close()

    assert repository.loader.runtimes["a"].is_unloaded
    await loading

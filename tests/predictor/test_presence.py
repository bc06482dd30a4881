"""What others are told: health by model, and the lease."""

from __future__ import annotations

from mesh.v1.registry_pb2 import ServedModel
from predictor.presence import Presence
from tests.predictor.fake_runtime import spec


class FakeHealth:
    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    async def set(self, name: str, serving: bool) -> None:
        self.told.append((name, serving))


class FakeLease:
    def __init__(self) -> None:
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")

    async def set_models(self, models: list[ServedModel]) -> None:
        self.calls.append(" ".join(f"{model.name}:{model.version}:{model.ready}" for model in models))

    async def withdraw(self) -> None:
        self.calls.append("withdraw")


async def test_health_follows_each_model() -> None:
    health = FakeHealth()
    presence = Presence(health, [spec("a")])

    await presence.model_changed(spec("a"), False)
    await presence.model_changed(spec("a"), True)

    assert health.told == [("a/versions/1", False), ("a", False), ("a/versions/1", True), ("a", True)]


async def test_a_model_is_as_healthy_as_the_version_that_is_deployed() -> None:
    health, lease = FakeHealth(), FakeLease()
    presence = Presence(health, [spec("a", version="3"), spec("a", version="2")])
    await presence.announce(lease)

    await presence.model_changed(spec("a", version="2"), True)
    await presence.model_changed(spec("a", version="3"), True)

    assert health.told == [("a/versions/2", True), ("a/versions/3", True), ("a", True)]
    assert lease.calls[0] == "a:3:False a:2:False"
    assert lease.calls[-1] == "a:3:True a:2:True"


async def test_the_lease_begins_with_what_is_known_and_follows() -> None:
    lease = FakeLease()
    presence = Presence(FakeHealth(), [spec("a"), spec("b", version="7")])
    await presence.model_changed(spec("a"), True)

    await presence.announce(lease)
    await presence.model_changed(spec("b", version="7"), True)
    await presence.withdraw()
    await presence.model_changed(spec("b", version="7"), False)
    await presence.withdraw()

    assert lease.calls == ["a:1:True b:7:False", "start", "a:1:True b:7:True", "withdraw"]


async def test_without_a_registry_there_is_nothing_to_withdraw() -> None:
    await Presence(FakeHealth(), []).withdraw()

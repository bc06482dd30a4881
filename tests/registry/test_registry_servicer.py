"""The registry over a real channel: each RPC, its errors, and Watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from mesh.channel import open_channel
from mesh.testing import eventually, serve_on_free_port
from mesh.v1 import registry_pb2 as pb
from mesh.v1.registry_pb2_grpc import RegistryServiceStub, add_RegistryServiceServicer_to_server
from registry.catalog import Catalog
from registry.control import ControlPlane
from registry.database import Database
from registry.leases import Leases
from registry.servicer import RegistryServicer
from registry.watch import WatchLog

if TYPE_CHECKING:
    from mesh.v1.registry_pb2_grpc import RegistryServiceAsyncStub


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Running:
    stub: RegistryServiceAsyncStub
    address: str
    control: ControlPlane
    watch_log: WatchLog
    clock: Clock


@asynccontextmanager
async def registry(path: Path, epoch: str = "e1", history_events: int = 100) -> AsyncIterator[Running]:
    clock = Clock()
    database = Database(f"sqlite:///{path / 'registry.db'}")
    catalog = Catalog(database, lambda: datetime(2026, 1, 2, 3, 4, 5, 678, UTC))
    watch_log = WatchLog(epoch, history_events=history_events)
    control = ControlPlane(catalog, watch_log, Leases(clock))
    await control.start()
    try:
        async with (
            serve_on_free_port((add_RegistryServiceServicer_to_server, RegistryServicer(catalog, control))) as address,
            open_channel(address) as channel,
        ):
            yield Running(RegistryServiceStub(channel), address, control, watch_log, clock)
    finally:
        await control.close()
        database.close()


def draft(**fields: str) -> pb.CreateModelVersionRequest:
    values = {"model_name": "iris", "artifact_uri": "file:///m", "model_format": "sklearn"} | fields
    return pb.CreateModelVersionRequest(model_version=pb.ModelVersion(**values))


def deployment(name: str = "iris", uri: str = "file:///m") -> pb.Deployment:
    return pb.Deployment(name=name, predictor=pb.PredictorSpec(model_format="sklearn", storage_uri=uri))


def replica(id_: str = "r1", address: str = "127.0.0.1:1") -> pb.Replica:
    models = [pb.ServedModel(name="iris", version="1", ready=True)]
    return pb.Replica(id=id_, kind=pb.SERVICE_KIND_PREDICTOR, address=address, models=models)


async def failure(call: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


class TestModels:
    async def test_versions_count_from_one_and_are_stored_as_given(self, tmp_path: Path) -> None:
        async with registry(tmp_path) as running:
            await running.stub.CreateModelVersion(draft())
            second = (await running.stub.CreateModelVersion(draft(sha256="a" * 64))).model_version
            found = await running.stub.GetModelVersion(pb.GetModelVersionRequest(model_name="iris", version="2"))

        assert second.version == "2"
        assert found.model_version == second
        assert second.created_at.ToDatetime(UTC) == datetime(2026, 1, 2, 3, 4, 5, 678, UTC)

    async def test_alias_moves(self, tmp_path: Path) -> None:
        async with registry(tmp_path) as running:
            for _ in range(2):
                await running.stub.CreateModelVersion(draft())
            for version in ("1", "2"):
                await running.stub.SetModelAlias(
                    pb.SetModelAliasRequest(model_name="iris", alias="champion", version=version)
                )
                found = await running.stub.GetModelVersion(
                    pb.GetModelVersionRequest(model_name="iris", alias="champion")
                )
                assert found.model_version.version == version
            listed = (await running.stub.ListModels(pb.ListModelsRequest())).models

        assert [(m.name, [v.version for v in m.versions], dict(m.aliases)) for m in listed] == [
            ("iris", ["1", "2"], {"champion": "2"})
        ]

    @pytest.mark.parametrize(
        ("request_", "code", "sentence"),
        [
            (draft(model_name="a/b"), "INVALID_ARGUMENT", "model_version.model_name 'a/b' is not a valid name"),
            (draft(model_name="а"), "INVALID_ARGUMENT", "'\\u0430' is not a valid name"),
            (draft(model_name="x" * 10_000), "INVALID_ARGUMENT", "has 10000 characters; the limit is 63"),
            (draft(artifact_uri="model.bin"), "INVALID_ARGUMENT", "artifact_uri 'model.bin' is not a URI"),
            (draft(sha256="ABC"), "INVALID_ARGUMENT", "sha256 'ABC' is not a SHA-256"),
            (draft(model_format=""), "INVALID_ARGUMENT", "model_format is empty"),
        ],
    )
    async def test_bad_version_is_refused_by_field(
        self, tmp_path: Path, request_: pb.CreateModelVersionRequest, code: str, sentence: str
    ) -> None:
        async with registry(tmp_path) as running:
            status, details = await failure(running.stub.CreateModelVersion(request_))

        assert status.name == code
        assert sentence in details

    async def test_unknown_things_are_not_found(self, tmp_path: Path) -> None:
        async with registry(tmp_path) as running:
            stub, get = running.stub, pb.GetModelVersionRequest
            await stub.CreateModelVersion(draft())
            answers = [
                await failure(stub.GetModelVersion(get(model_name="other", version="1"))),
                await failure(stub.GetModelVersion(get(model_name="iris", version="7"))),
                await failure(stub.GetModelVersion(get(model_name="iris", version="01"))),
                await failure(stub.GetModelVersion(get(model_name="iris", alias="champion"))),
                await failure(
                    stub.SetModelAlias(pb.SetModelAliasRequest(model_name="iris", alias="champion", version="9"))
                ),
                await failure(stub.GetPromptVersion(pb.GetPromptVersionRequest(prompt_name="greeting"))),
                await failure(stub.DeleteDeployment(pb.DeleteDeploymentRequest(name="iris"))),
            ]
            unset = await failure(stub.GetModelVersion(get(model_name="iris")))

        assert {status for status, _ in answers} == {grpc.StatusCode.NOT_FOUND}
        assert [details for _, details in answers] == [
            "model 'other' does not exist",
            "model 'iris' has no version '7'; it has 1 to 1",
            "model 'iris' has no version '01'; it has 1 to 1",
            "model 'iris' has no alias 'champion'",
            "model 'iris' has no version '9'; it has 1 to 1",
            "prompt 'greeting' does not exist",
            "deployment 'iris' does not exist",
        ]
        assert unset == (grpc.StatusCode.INVALID_ARGUMENT, "neither version nor alias is set")

    async def test_many_writers_at_once_get_a_number_each(self, tmp_path: Path) -> None:
        async with registry(tmp_path) as running:
            created = await asyncio.gather(*(running.stub.CreateModelVersion(draft()) for _ in range(20)))

        assert sorted(int(answer.model_version.version) for answer in created) == list(range(1, 21))


async def test_newest_prompt_version_is_the_default(tmp_path: Path) -> None:
    async with registry(tmp_path) as running:
        for template in ("Hello {{name}}", "Hi {{name}}"):
            await running.stub.CreatePromptVersion(
                pb.CreatePromptVersionRequest(
                    prompt_version=pb.PromptVersion(prompt_name="greeting", template=template)
                )
            )
        newest = await running.stub.GetPromptVersion(pb.GetPromptVersionRequest(prompt_name="greeting"))
        first = await running.stub.GetPromptVersion(pb.GetPromptVersionRequest(prompt_name="greeting", version="1"))

    assert (newest.prompt_version.version, newest.prompt_version.template) == ("2", "Hi {{name}}")
    assert first.prompt_version.template == "Hello {{name}}"


class TestWatch:
    async def test_newcomer_sees_the_state_and_then_each_change(self, tmp_path: Path) -> None:
        async with registry(tmp_path) as running:
            stub = running.stub
            await stub.ApplyDeployment(pb.ApplyDeploymentRequest(deployment=deployment()))
            watch = stub.Watch(pb.WatchRequest())
            first = await watch.read()
            await stub.AnnounceReplica(pb.AnnounceReplicaRequest(replica=replica()))
            await stub.ApplyDeployment(pb.ApplyDeploymentRequest(deployment=deployment(uri="file:///n")))
            await stub.WithdrawReplica(pb.WithdrawReplicaRequest(replica_id="r1"))
            await stub.DeleteDeployment(pb.DeleteDeploymentRequest(name="iris"))
            events = [await watch.read() for _ in range(4)]
            watch.cancel()

        assert [d.name for d in first.snapshot.deployments] == ["iris"]
        assert [e.revision for e in events] == [first.revision + n for n in (1, 2, 3, 4)]
        assert [e.WhichOneof("event") for e in events] == [
            "replica_announced",
            "deployment_applied",
            "replica_left",
            "deployment_deleted",
        ]
        assert events[1].deployment_applied.generation == 2

    async def test_the_same_again_is_no_event(self, tmp_path: Path) -> None:
        async with registry(tmp_path) as running:
            for _ in range(3):
                applied = await running.stub.ApplyDeployment(pb.ApplyDeploymentRequest(deployment=deployment()))
                await running.stub.AnnounceReplica(pb.AnnounceReplicaRequest(replica=replica()))

            assert running.watch_log.revision == 3
            assert applied.deployment.generation == 1

    async def test_resumes_where_it_was(self, tmp_path: Path) -> None:
        async with registry(tmp_path) as running:
            watch = running.stub.Watch(pb.WatchRequest())
            seen = await watch.read()
            watch.cancel()
            for number in range(3):
                announce = pb.AnnounceReplicaRequest(replica=replica(f"r{number}", f"127.0.0.1:{number + 1}"))
                await running.stub.AnnounceReplica(announce)
            watch = running.stub.Watch(pb.WatchRequest(after_revision=seen.revision, epoch=seen.epoch))
            events = [await watch.read() for _ in range(3)]
            watch.cancel()

        assert [event.replica_announced.id for event in events] == ["r0", "r1", "r2"]

    async def test_cancelled_watch_is_forgotten(self, tmp_path: Path) -> None:
        async with registry(tmp_path) as running:
            watch = running.stub.Watch(pb.WatchRequest())
            await watch.read()
            assert running.watch_log.num_watchers == 1
            watch.cancel()
            await eventually(lambda: running.watch_log.num_watchers == 0)

    async def test_stopping_registry_ends_watches_with_unavailable(self, tmp_path: Path) -> None:
        async with registry(tmp_path) as running:
            watch = running.stub.Watch(pb.WatchRequest())
            await watch.read()
            await running.control.end_watches()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch.read()

        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    async def test_change_reaches_many_watchers_within_a_second(self, tmp_path: Path) -> None:
        async with registry(tmp_path) as running:
            watches = [running.stub.Watch(pb.WatchRequest()) for _ in range(50)]
            await asyncio.gather(*(watch.read() for watch in watches))
            async with asyncio.timeout(1):
                await running.stub.AnnounceReplica(pb.AnnounceReplicaRequest(replica=replica()))
                events = await asyncio.gather(*(watch.read() for watch in watches))
            for watch in watches:
                watch.cancel()

        assert {event.replica_announced.id for event in events} == {"r1"}


class TestLeases:
    async def test_unrenewed_lease_ends_and_renewal_says_not_found(self, tmp_path: Path) -> None:
        async with registry(tmp_path) as running:
            await running.stub.AnnounceReplica(pb.AnnounceReplicaRequest(replica=replica(), lease_s=2))
            renewed = await running.stub.RenewLease(pb.RenewLeaseRequest(replica_id="r1"))
            assert renewed.lease_s == 2

            def has_left_while_time_passes() -> bool:
                running.clock.now += 0.01
                return not running.control.view.replicas

            await eventually(has_left_while_time_passes)
            status = await failure(running.stub.RenewLease(pb.RenewLeaseRequest(replica_id="r1")))

        assert status == (grpc.StatusCode.NOT_FOUND, "replica 'r1' has no lease; announce it again")
        assert dict(running.control.view.replicas) == {}

    async def test_new_replica_at_an_old_address_replaces_it_at_once(self, tmp_path: Path) -> None:
        async with registry(tmp_path) as running:
            await running.stub.AnnounceReplica(pb.AnnounceReplicaRequest(replica=replica("old")))
            await running.stub.AnnounceReplica(pb.AnnounceReplicaRequest(replica=replica("new")))

            assert list(running.control.view.replicas) == ["new"]

    async def test_bad_replica_is_refused_by_field(self, tmp_path: Path) -> None:
        async with registry(tmp_path) as running:
            announce = running.stub.AnnounceReplica
            cases = [
                pb.AnnounceReplicaRequest(),
                pb.AnnounceReplicaRequest(replica=pb.Replica(id="r1", address="127.0.0.1:1")),
                pb.AnnounceReplicaRequest(replica=replica(address="nowhere")),
                pb.AnnounceReplicaRequest(replica=replica(), lease_s=0.5),
                pb.AnnounceReplicaRequest(replica=replica(), lease_s=float("nan")),
            ]
            answers = [await failure(announce(case)) for case in cases]

        assert {status for status, _ in answers} == {grpc.StatusCode.INVALID_ARGUMENT}
        assert [details.split(" ")[0] for _, details in answers] == [
            "replica.id",
            "replica.kind",
            "replica.address",
            "lease_s",
            "lease_s",
        ]


async def test_deployments_survive_and_generations_go_on_after_deletion(tmp_path: Path) -> None:
    async with registry(tmp_path) as running:
        await running.stub.ApplyDeployment(pb.ApplyDeploymentRequest(deployment=deployment()))
        await running.stub.DeleteDeployment(pb.DeleteDeploymentRequest(name="iris"))
    async with registry(tmp_path, epoch="e2") as running:
        again = await running.stub.ApplyDeployment(pb.ApplyDeploymentRequest(deployment=deployment()))

    assert again.deployment.generation == 2


async def test_bad_deployment_is_refused_by_field(tmp_path: Path) -> None:
    async with registry(tmp_path) as running:
        unset = await failure(running.stub.ApplyDeployment(pb.ApplyDeploymentRequest()))
        bad = deployment()
        bad.predictor.storage_uri = "nothing"
        wrong = await failure(running.stub.ApplyDeployment(pb.ApplyDeploymentRequest(deployment=bad)))

    assert unset == (grpc.StatusCode.INVALID_ARGUMENT, "name is empty")
    assert wrong[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert "predictor.storage_uri 'nothing' is not a URI" in wrong[1]


async def test_change_of_a_generation_that_is_not_the_newest_is_refused(tmp_path: Path) -> None:
    async with registry(tmp_path) as running:
        first = (await running.stub.ApplyDeployment(pb.ApplyDeploymentRequest(deployment=deployment()))).deployment
        changes = [
            running.stub.ApplyDeployment(
                pb.ApplyDeploymentRequest(deployment=deployment(uri=uri), expected_generation=first.generation)
            )
            for uri in ("file:///2", "file:///3")
        ]
        second = (await changes[0]).deployment
        lost = await failure(changes[1])

        assert second.generation == 2
        assert lost[0] is grpc.StatusCode.ABORTED
        assert "at generation 2, and the change was made to generation 1" in lost[1]
        assert running.control.view.deployments["iris"] == second

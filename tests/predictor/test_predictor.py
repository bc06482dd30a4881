"""The predictor as a process: it serves, says what is wrong, announces itself, and ends when it is told to."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.testing import serve_on_free_port
from mesh.v1 import registry_pb2
from mesh.v1.registry_pb2_grpc import RegistryServiceServicer, add_RegistryServiceServicer_to_server
from tests.predictor.running import ROOT, eventually, run_to_its_end, running_predictor

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_it_serves_iris_and_ends_on_sigterm(iris_folder: Path, tmp_path: Path) -> None:
    async with running_predictor(tmp_path, "--model", f"iris={iris_folder}") as predictor:
        await predictor.until_ready("iris")
        async with predictor.channel() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", "inference.GRPCInferenceService", "mesh.v1.LanguageModel", "iris"):
                assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == SERVING
        metrics_url = f"http://{predictor.addresses['metrics_address']}/metrics"
        metrics = await asyncio.to_thread(lambda: urllib.request.urlopen(metrics_url).read().decode())

        status = predictor.terminate()

    assert 'meshserve_model_ready{model_name="iris",version="1"} 1.0' in metrics
    assert status == 0, predictor.log
    assert [event["model"] for event in predictor.events("model_loaded")] == ["iris"]
    assert {event["stage"] for event in predictor.events("model_progress")} >= {"load", "warm"}
    assert predictor.events("model_unloaded")
    assert predictor.events("stopped")


async def test_a_stock_triton_client_finds_all_it_asks_for(iris_folder: Path, tmp_path: Path) -> None:
    async with running_predictor(tmp_path, "--model", f"iris={iris_folder}") as predictor:
        await predictor.until_ready("iris")
        client = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, str(ROOT / "tests/predictor/triton_program.py"), predictor.addresses["grpc_address"]],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert client.returncode == 0, client.stderr
    seen: dict[str, Any] = json.loads(client.stdout)
    assert seen["live"] == [True, True, True]
    assert seen["label"] == [0, 2]
    assert [round(sum(row), 9) for row in seen["probabilities"]] == [1, 1]
    assert (seen["id"], seen["version"]) == ("r-7", "1")
    assert seen["streamed"] == ["[0, 2]", "the model has no input 'nobody'; it has 'input'", "[0, 2]"]
    assert (seen["config"]["max_batch_size"], seen["config"]["input"][0]["data_type"]) == (4096, "TYPE_FP64")
    assert seen["metadata"]["inputs"] == [{"name": "input", "datatype": "FP64", "shape": ["-1", "4"]}]
    assert seen["index"]["models"] == [{"name": "iris", "version": "1", "state": "READY"}]
    assert int(seen["requests"]["success"]["count"]) == 3
    assert seen["unknown model"] == ["StatusCode.NOT_FOUND", "model 'nobody' is not deployed; deployed: iris"]
    assert seen["wrong shape"][0] == seen["wrong datatype"][0] == "StatusCode.INVALID_ARGUMENT"
    assert seen["unload"] == seen["load"] == seen["loaded"] == ["OK", ""]
    assert seen["unloaded"] == ["StatusCode.UNAVAILABLE", "model 'iris' is unavailable: unloaded"]
    assert seen["load unknown"][0] == "StatusCode.NOT_FOUND"


async def test_broken_models_do_not_stop_the_good_one(iris_folder: Path, tmp_path: Path) -> None:
    truncated = Path(shutil.copytree(iris_folder, tmp_path / "truncated"))
    whole = (truncated / "model.skops").read_bytes()
    (truncated / "model.skops").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "other.gguf").write_bytes(b"GGUF and nothing more")
    deployments = tmp_path / "deployments.yaml"
    deployments.write_text(
        json.dumps(
            {
                "deployments": [
                    {"name": name, "predictor": {"model_format": model_format, "storage_uri": uri, **fields}}
                    for name, model_format, uri, fields in (
                        ("iris", "sklearn", iris_folder.as_uri(), {}),
                        ("truncated", "sklearn", truncated.as_uri(), {}),
                        ("digest", "llm", (tmp_path / "other.gguf").as_uri(), {"sha256": "0" * 64}),
                        ("cut", "llm", (tmp_path / "other.gguf").as_uri(), {}),
                        ("absent", "sklearn", "file:///no/such/folder", {}),
                        ("odd", "onyx", iris_folder.as_uri(), {}),
                    )
                ]
            }
        )
    )

    async with running_predictor(tmp_path, "--deployments", str(deployments)) as predictor:
        await predictor.until_ready("iris")
        async with predictor.channel() as channel:
            stub = GRPCInferenceServiceStub(channel)

            async def is_ready() -> bool:
                return (await stub.ServerReady(oip.ServerReadyRequest())).ready

            await eventually(is_ready, 30, "every model was tried")
            index = await stub.RepositoryIndex(oip.RepositoryIndexRequest())
            health = health_pb2_grpc.HealthStub(channel)
            broken = await health.Check(health_pb2.HealthCheckRequest(service="digest"))
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stub.ModelInfer(oip.ModelInferRequest(model_name="truncated"))
        assert predictor.terminate() == 0

    reasons = {model.name: model.reason for model in index.models}
    assert [model.name for model in index.models if model.state == "READY"] == ["iris"]
    assert "model.skops is truncated or no skops file" in reasons["truncated"]
    assert "0000000000" in reasons["digest"]
    assert reasons["cut"]
    assert "/no/such/folder" in reasons["absent"]
    assert reasons["odd"].startswith("unknown model format 'onyx'; known are: ")
    assert broken.status == NOT_SERVING
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert {event["model"] for event in predictor.events("model_failed")} == set(reasons) - {"iris"}


@pytest.mark.parametrize("port", ["grpc-port", "metrics-port"])
def test_a_taken_port_ends_the_start_with_one_sentence(port: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        ports = {"grpc-port": "0", "metrics-port": "0", port: str(number)}

        ended = run_to_its_end(
            "--ready-file",
            str(tmp_path / "ready.json"),
            *(flag for name in ports for flag in (f"--{name}", ports[name])),
        )

    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{number} (--{port})" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr + ended.stdout
    assert not (tmp_path / "ready.json").exists()


@pytest.mark.parametrize(
    ("flags", "status", "sentence"),
    [
        (["--grpc-port", "99999"], 2, "grpc_port: '99999' is not allowed"),
        (["--model", "iris"], 1, "--model is 'iris'; it must be name=uri, for example iris=./iris-folder"),
        (["--deployments", "/no/such.yaml"], 1, "/no/such.yaml: cannot be read"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_sentence(flags: list[str], status: int, sentence: str) -> None:
    ended = run_to_its_end(*flags)

    assert ended.returncode == status
    assert sentence in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


class RecordingRegistry(RegistryServiceServicer):
    """Remembers who announced and who left."""

    def __init__(self) -> None:
        self.announced: list[registry_pb2.Replica] = []
        self.withdrawn: list[str] = []

    async def AnnounceReplica(self, request: registry_pb2.AnnounceReplicaRequest, context: Any) -> Any:
        self.announced.append(request.replica)
        return registry_pb2.AnnounceReplicaResponse(lease_s=request.lease_s)

    async def RenewLease(self, request: registry_pb2.RenewLeaseRequest, context: Any) -> Any:
        return registry_pb2.RenewLeaseResponse(lease_s=10)

    async def WithdrawReplica(self, request: registry_pb2.WithdrawReplicaRequest, context: Any) -> Any:
        self.withdrawn.append(request.replica_id)
        return registry_pb2.WithdrawReplicaResponse()


async def test_it_announces_itself_with_its_models_and_withdraws(iris_folder: Path, tmp_path: Path) -> None:
    registry = RecordingRegistry()
    async with serve_on_free_port((add_RegistryServiceServicer_to_server, registry)) as address:
        flags = ("--registry", address, "--model", f"iris={iris_folder}", "--model", "absent=/no/such/folder")
        async with running_predictor(tmp_path, *flags) as predictor:
            await predictor.until_ready("iris")

            async def is_announced() -> bool:
                return bool(registry.announced) and registry.announced[-1].models[0].ready

            await eventually(is_announced, 10, "iris is announced as ready")
            addresses = predictor.addresses
            assert await asyncio.to_thread(predictor.terminate) == 0

    last = registry.announced[-1]
    assert last.kind == registry_pb2.SERVICE_KIND_PREDICTOR
    assert (last.address, last.metrics_address) == (addresses["grpc_address"], addresses["metrics_address"])
    assert [(model.name, model.version, model.ready) for model in last.models] == [
        ("iris", "1", True),
        ("absent", "1", False),
    ]
    assert registry.withdrawn == [last.id]


async def test_an_absent_registry_is_no_reason_not_to_serve(iris_folder: Path, tmp_path: Path) -> None:
    flags = ("--registry", "127.0.0.1:1", "--model", f"iris={iris_folder}")
    async with running_predictor(tmp_path, *flags) as predictor:
        await predictor.until_ready("iris")
        assert await asyncio.to_thread(predictor.terminate) == 0

    assert len(predictor.events("not_announced")) == 1


async def test_versions_and_models_share_a_memory_budget(iris_folder: Path, tmp_path: Path) -> None:
    size_bytes = sum(file.stat().st_size for file in iris_folder.rglob("*"))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.skops").write_bytes(bytes(size_bytes))
    uri = iris_folder.as_uri()
    predictor_of = {"model_format": "sklearn", "storage_uri": uri, "model_version": "2"}
    versions = [{"model_version": "1"}, {"model_version": "3", "storage_uri": broken.as_uri()}]
    deployments = tmp_path / "deployments.yaml"
    deployments.write_text(
        json.dumps(
            {
                "deployments": [
                    {"name": "iris", "predictor": {**predictor_of, "versions": versions}},
                    {"name": "other", "predictor": predictor_of},
                ]
            }
        )
    )
    flags = ("--deployments", str(deployments), "--memory-budget-mb", "1")

    async with running_predictor(tmp_path, *flags) as predictor:
        await predictor.until_ready("other")
        async with predictor.channel() as channel:
            stub = GRPCInferenceServiceStub(channel)
            before = await stub.RepositoryIndex(oip.RepositoryIndexRequest())
            for name, version in (("iris", ""), ("iris", "1"), ("other", ""), ("iris", "")):
                answer = await stub.ModelInfer(iris_request(name, version))
                assert (answer.model_name, answer.model_version) == (name, version or "2")
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stub.ModelInfer(iris_request("iris", "3"))
            after = await stub.RepositoryIndex(oip.RepositoryIndexRequest())
        assert predictor.terminate() == 0

    assert {model.reason for model in before.models} == {"not in memory; the next request loads it"}
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    states = {(model.name, model.version): model.state for model in after.models}
    assert states.pop(("iris", "3")) == "UNAVAILABLE"
    assert set(states.values()) == {"READY"}
    assert predictor.events("model_loaded")[0]["model"] == "iris"
    assert not predictor.events("unexpected_error")


def iris_request(name: str, version: str) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=name, model_version=version)
    request.inputs.add(name="input", datatype="FP64", shape=[1, 4])
    request.inputs[0].contents.fp64_contents.extend([6.7, 3.0, 5.2, 2.3])
    return request

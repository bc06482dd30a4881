"""A registry and a gateway, put together as their processes do it, and predictors that say which version answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import numpy as np

from gateway.__main__ import Gateway
from gateway.settings import GatewaySettings
from mesh import context
from mesh.channel import open_channel
from mesh.errors import MeshError, ModelNotFound
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server
from mesh.tensors import Tensor, encode_response
from mesh.testing import eventually, serve_on_free_port
from mesh.v1 import language_model_pb2 as lm
from mesh.v1 import registry_pb2 as pb
from mesh.v1.explain_pb2_grpc import add_ExplainServiceServicer_to_server
from mesh.v1.language_model_pb2_grpc import LanguageModelServicer, add_LanguageModelServicer_to_server
from mesh.v1.registry_pb2_grpc import add_RegistryServiceServicer_to_server
from registry.catalog import Catalog
from registry.control import ControlPlane
from registry.database import Database
from registry.leases import Leases
from registry.servicer import RegistryServicer
from registry.watch import WatchLog
from tests.gateway.fake_mesh import FakeExplainer

Context = Any  # grpc.aio.ServicerContext, which cannot be subscripted


@dataclass
class VersionedPredictor(GRPCInferenceServiceServicer, LanguageModelServicer):
    """Answers with the version that was asked for; the first of `versions` when none was.

    failures: by version, what is raised instead. gates: by version, what an answer waits for.
    """

    versions: tuple[str, ...]
    asked: list[tuple[str, str]] = field(default_factory=list)  # model and version, request by request
    priorities: list[int] = field(default_factory=list)  # of these
    sessions: list[str | None] = field(default_factory=list)  # of these
    generate_requests: list[lm.GenerateRequest] = field(default_factory=list)
    failures: dict[str, MeshError] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    outputs: dict[str, list[float]] = field(default_factory=dict)

    async def _version(self, name: str, version: str) -> str:
        self.asked.append((name, version))
        self.priorities.append(int(context.header(context.PRIORITY_HEADER) or 0))
        self.sessions.append(context.header(context.SESSION_HEADER))
        version = version or self.versions[0]
        if version not in self.versions:
            raise ModelNotFound(f"model '{name}' has no version {version}")
        if version in self.gates:
            await self.gates[version].wait()
        if version in self.failures:
            raise self.failures[version]
        return version

    async def ModelInfer(self, request: oip.ModelInferRequest, _context: Context) -> oip.ModelInferResponse:
        version = await self._version(request.model_name, request.model_version)
        response = oip.ModelInferResponse(model_name=request.model_name, model_version=version, id=request.id)
        values = self.outputs.get(version, [float(version)])
        encode_response(response, [Tensor("version", "FP64", np.array(values))], raw=True)
        return response

    async def ModelStreamInfer(
        self, requests: AsyncIterator[oip.ModelInferRequest], _context: Context
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        async for request in requests:
            yield oip.ModelStreamInferResponse(infer_response=await self.ModelInfer(request, _context))

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, _context: Context) -> oip.ModelMetadataResponse:
        version = await self._version(request.name, request.version)
        response = oip.ModelMetadataResponse(name=request.name, versions=[version], platform="fake")
        response.inputs.add(name="input", datatype="FP64", shape=[-1, 2])
        response.outputs.add(name="version", datatype="FP64", shape=[-1])
        return response

    async def ModelConfig(self, request: oip.ModelConfigRequest, _context: Context) -> oip.ModelConfigResponse:
        await self._version(request.name, request.version)
        return oip.ModelConfigResponse(config=oip.ModelConfig(name=request.name, backend="fake"))

    async def Generate(self, request: lm.GenerateRequest, _context: Context) -> AsyncIterator[lm.GenerateResponse]:
        self.generate_requests.append(request)
        version = await self._version(request.model_name, request.model_version)
        seed = request.sampling.seed if request.sampling.HasField("seed") else 7
        start = lm.GenerationStart(model_name=request.model_name, model_version=version, seed=seed, prompt_tokens=1)
        yield lm.GenerateResponse(start=start)
        tokens = [100, int(version)]
        for token_id, text in zip(tokens, ["version ", version], strict=True):
            yield lm.GenerateResponse(text=text, token_ids=[token_id])
        usage = lm.Usage(prompt_tokens=1, output_tokens=2)
        yield lm.GenerateResponse(finish_reason=lm.FINISH_REASON_STOP, usage=usage, timings=lm.Timings())


def deployment(
    name: str,
    versions: Iterable[str] = ("1", "2"),
    traffic: pb.TrafficSpec | None = None,
    model_format: str = "sklearn",
) -> pb.Deployment:
    """The first version is the deployed one."""
    deployed, *others = versions
    predictor = pb.PredictorSpec(
        model_format=model_format,
        storage_uri=f"file:///{name}-{deployed}",
        model_version=deployed,
        versions=[pb.VersionSpec(model_version=one, storage_uri=f"file:///{name}-{one}") for one in others],
    )
    return pb.Deployment(name=name, predictor=predictor, traffic=traffic)


@dataclass
class TrafficMesh:
    """What runs. http and channel lead to the gateway."""

    control: ControlPlane
    registry_address: str
    gateway: Gateway
    http: httpx.AsyncClient
    channel: grpc.aio.Channel
    state_dir: Path
    stack: AsyncExitStack

    async def apply(self, *deployments: pb.Deployment) -> None:
        """Apply them, and return once the gateway knows."""
        for one in deployments:
            await self.seen(await self.control.apply_deployment(one))

    async def seen(self, applied: pb.Deployment) -> None:
        """Return once the gateway knows this generation."""
        await eventually(lambda: self.gateway.view.deployments.get(applied.name) == applied)

    async def serve(self, predictor: VersionedPredictor, *models: str) -> str:
        """Start a predictor and announce it, with all its versions of each model; gives its address."""
        address = await self.stack.enter_async_context(
            serve_on_free_port(
                (add_GRPCInferenceServiceServicer_to_server, predictor),
                (add_LanguageModelServicer_to_server, predictor),
            )
        )
        self.announce(address, dict.fromkeys(models, predictor.versions))
        await eventually(lambda: any(one.address == address for one in self.gateway.view.replicas.values()))
        return address

    def announce(self, address: str, models: dict[str, tuple[str, ...]]) -> None:
        served = [
            pb.ServedModel(name=name, version=version, ready=True)
            for name, versions in models.items()
            for version in versions
        ]
        replica = pb.Replica(id=address, kind=pb.SERVICE_KIND_PREDICTOR, address=address, models=served)
        self.control.announce(replica, 300)

    async def serve_explainer(self) -> FakeExplainer:
        explainer = FakeExplainer()
        address = await self.stack.enter_async_context(
            serve_on_free_port((add_ExplainServiceServicer_to_server, explainer))
        )
        self.control.announce(pb.Replica(id=address, kind=pb.SERVICE_KIND_EXPLAINER, address=address), 300)
        await eventually(lambda: address in self.gateway.view.replicas)
        return explainer

    async def lines(self, file: str, count: int) -> list[dict[str, Any]]:
        """The lines of a file in the gateway's state folder, once there are `count`."""
        path = self.state_dir / file

        def found() -> list[str]:
            return path.read_text().splitlines() if path.exists() else []

        await eventually(lambda: len(found()) >= count)
        return [json.loads(line) for line in found()]


@asynccontextmanager
async def traffic_mesh(tmp_path: Path, **settings: Any) -> AsyncIterator[TrafficMesh]:
    """A registry and a gateway that follows it; predictors are for the test to add."""
    async with AsyncExitStack() as stack:
        database = Database(f"sqlite:///{tmp_path / 'registry.db'}")
        stack.callback(database.close)
        catalog = Catalog(database, lambda: datetime.now(UTC))
        control = ControlPlane(catalog, WatchLog("e1"), Leases(lambda: 0.0))
        await control.start()
        stack.push_async_callback(control.close)
        address = await stack.enter_async_context(
            serve_on_free_port((add_RegistryServiceServicer_to_server, RegistryServicer(catalog, control)))
        )
        state_dir = tmp_path / "state"
        ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "drain_s": 0, "grace_s": 2}
        gateway = Gateway(GatewaySettings(**{**ports, "registry": address, "state_dir": state_dir, **settings}))
        await gateway.start()
        stack.push_async_callback(gateway.server.close)
        channel = await stack.enter_async_context(open_channel(gateway.server.address))
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{gateway.http.address}", timeout=20, trust_env=False)
        )
        yield TrafficMesh(control, address, gateway, http, channel, state_dir, stack)

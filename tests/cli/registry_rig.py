"""A registry in this process, for the verbs that speak to it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mesh.testing import serve_on_free_port
from mesh.v1 import registry_pb2 as pb
from mesh.v1.registry_pb2_grpc import add_RegistryServiceServicer_to_server
from registry.catalog import Catalog
from registry.control import ControlPlane
from registry.database import Database
from registry.leases import Leases
from registry.servicer import RegistryServicer
from registry.watch import WatchLog
from tests.cli.conftest import Result

# The registry logs to the same output, since it has the same process.
_LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\d .*\n", re.MULTILINE)


@dataclass
class Rig:
    """A registry with iris in versions 1 (deployed), 2 and 3, of which a predictor has 1 and 2 ready."""

    control: ControlPlane
    address: str
    run: Callable[..., Awaitable[Result]]

    async def shown(self, *arguments: str) -> dict[str, Any]:
        result = await self.run(*arguments, "--json")
        assert result.status == 0, result.err
        described: dict[str, Any] = json.loads(result.out)
        return described

    @property
    def iris(self) -> pb.Deployment:
        return self.control.view.deployments["iris"]


@asynccontextmanager
async def running_registry(tmp_path: Path, run_cli: Any) -> AsyncIterator[Rig]:
    """`run_cli`: the fixture of that name; commands run in a thread, since the registry has this one."""
    database = Database(f"sqlite:///{tmp_path}/registry.db")
    catalog = Catalog(database, lambda: datetime.now(UTC))
    control = ControlPlane(catalog, WatchLog("e1"), Leases(lambda: 0.0))
    await control.start()
    versions = [pb.VersionSpec(model_version=one, storage_uri=f"file:///{one}") for one in "23"]
    predictor = pb.PredictorSpec(model_format="sklearn", storage_uri="file:///1", model_version="1", versions=versions)
    await control.apply_deployment(pb.Deployment(name="iris", predictor=predictor))
    models = [pb.ServedModel(name="iris", version=one, ready=True) for one in "12"]
    control.announce(pb.Replica(id="p", kind=pb.SERVICE_KIND_PREDICTOR, address="127.0.0.1:1", models=models), 300)
    servicer = RegistryServicer(catalog, control)
    async with serve_on_free_port((add_RegistryServiceServicer_to_server, servicer)) as address:

        async def run(verb: str, *arguments: str) -> Result:
            result: Result = await asyncio.to_thread(run_cli, verb, "iris", "--registry", address, *arguments)
            return replace(result, out=_LOG_LINE.sub("", result.out))

        yield Rig(control, address, run)
    await control.close()
    database.close()

"""Health follows the view: deployments come, become ready, go."""

from __future__ import annotations

from mesh.model_health import ModelHealth, is_ready, readiness
from mesh.testing import eventually
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Deployment, PredictorSpec, Replica, ServedModel, VersionSpec
from mesh.view import MeshView


def view(deployments: str, ready: str) -> MeshView:
    models = [ServedModel(name=name, version="1", ready=name in ready) for name in deployments]
    replica = Replica(id="p", kind=SERVICE_KIND_PREDICTOR, models=models)
    return MeshView({name: Deployment(name=name) for name in deployments}, {"p": replica})


async def test_each_change_is_told_once() -> None:
    told: list[tuple[str, bool]] = []
    seen = [view("ab", ready="a")]

    async def set_health(name: str, serving: bool) -> None:
        told.append((name, serving))

    health = ModelHealth(lambda: seen[-1], set_health)
    health.start()
    await eventually(lambda: told == [("a", True), ("b", False)])

    seen.append(view("ab", ready="ab"))
    health.notice(seen[-1])
    await eventually(lambda: told[2:] == [("b", True)])

    seen.append(view("b", ready="b"))
    health.notice(seen[-1])
    await eventually(lambda: told[3:] == [("a", False)])
    await health.close()


def test_readiness_is_of_the_version_that_is_asked_for() -> None:
    deployment = Deployment(
        name="a", predictor=PredictorSpec(model_version="2", versions=[VersionSpec(model_version="1")])
    )
    models = [ServedModel(name="a", version="2", ready=False), ServedModel(name="a", version="1", ready=True)]
    mesh = MeshView({"a": deployment}, {"p": Replica(id="p", kind=SERVICE_KIND_PREDICTOR, models=models)})

    assert [is_ready(mesh, "a", version) for version in ("", "1", "2", "3")] == [False, True, False, False]
    assert readiness(mesh) == {"a": False}
    assert not is_ready(mesh, "b")

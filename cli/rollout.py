"""What the verbs of a rollout make of a deployment: canary, mirror, promotion, rollback.

Pure: a deployment in, a changed copy out, with the generation that it was made of. What the registry checks itself
(versions, percents, names of headers) is not checked here.
"""

from __future__ import annotations

from collections.abc import Sequence

from cli.failure import Failure
from mesh.deployments import versions_of
from mesh.v1.registry_pb2 import Deployment, MeshSnapshot, PredictorSpec, RouteRule, TrafficSpec, VersionSpec


def promoted(deployment: Deployment, version: str = "") -> Deployment:
    """With `version`, or else the canary's, as the deployed version; the one before stays among the versions.

    The canary ends; so does a mirror of the promoted version. Raises Failure when there is nothing to promote.
    """
    version = version or deployment.traffic.canary.model_version
    if not version:
        raise Failure(f"'{deployment.name}' has no canary", "name the version to promote with --model-version")
    if version == versions_of(deployment)[0]:
        raise Failure(f"version {version} of '{deployment.name}' is the deployed one already")
    changed = _with_deployed(deployment, version)
    changed.traffic.previous_version = versions_of(deployment)[0]
    return changed


def rolled_back(deployment: Deployment) -> Deployment:
    """Without the canary; where there is none, with the version that was deployed before the last promotion.

    Raises Failure when there is neither.
    """
    if deployment.traffic.HasField("canary"):
        changed = _copy(deployment)
        changed.traffic.ClearField("canary")
        return _tidy(changed)
    previous = deployment.traffic.previous_version
    if not previous:
        raise Failure(f"'{deployment.name}' has neither a canary nor a version before this one")
    changed = _with_deployed(deployment, previous)
    changed.traffic.previous_version = ""
    return _tidy(changed)


def with_canary(deployment: Deployment, version: str, percent: int) -> Deployment:
    """With this share of the requests for `version`."""
    changed = _copy(deployment)
    changed.traffic.canary.model_version, changed.traffic.canary.percent = version, percent
    return changed


def with_mirror(deployment: Deployment, version: str, percent: int) -> Deployment:
    """With copies of this share of the requests for `version`."""
    changed = _copy(deployment)
    changed.traffic.mirror.model_version, changed.traffic.mirror.percent = version, percent
    return changed


def with_rules(deployment: Deployment, rules: Sequence[RouteRule]) -> Deployment:
    """With these rules behind those that are there."""
    changed = _copy(deployment)
    changed.traffic.rules.extend(rules)
    return changed


def with_settings(deployment: Deployment, *, sticky_header: str | None, fallback: str | None) -> Deployment:
    """With what is not None; an empty text takes the setting away."""
    changed = _copy(deployment)
    if sticky_header is not None:
        changed.traffic.sticky_header = sticky_header
    if fallback is not None:
        changed.traffic.fallback = fallback
    return _tidy(changed)


def cleared(deployment: Deployment) -> Deployment:
    """Without canary, rules and mirror: all requests go to the deployed version."""
    changed = _copy(deployment)
    for field in ("canary", "rules", "mirror"):
        changed.traffic.ClearField(field)
    return _tidy(changed)


def ready_replicas(snapshot: MeshSnapshot, deployment: Deployment) -> dict[str, int]:
    """For each version of the deployment, the deployed one first, how many replicas have it ready."""
    counts = dict.fromkeys(versions_of(deployment), 0)
    for replica in snapshot.replicas:
        for model in replica.models:
            if model.name == deployment.name and model.ready and model.version in counts:
                counts[model.version] += 1
    return counts


def check_ready(snapshot: MeshSnapshot, deployment: Deployment) -> None:
    """Raise Failure while no replica has the deployed version ready: its requests would be lost."""
    version = versions_of(deployment)[0]
    if not ready_replicas(snapshot, deployment)[version]:
        raise Failure(
            f"no replica has version {version} of '{deployment.name}' ready", "`meshserve models` says what is missing"
        )


def _copy(deployment: Deployment) -> Deployment:
    changed = Deployment()
    changed.CopyFrom(deployment)
    return changed


def _tidy(changed: Deployment) -> Deployment:
    if changed.traffic == TrafficSpec():
        changed.ClearField("traffic")
    return changed


def _with_deployed(deployment: Deployment, version: str) -> Deployment:
    """With `version` and the deployed one in each other's place. Raises Failure when it is none of the deployment's."""
    changed = _copy(deployment)
    place = next((one for one in changed.predictor.versions if one.model_version == version), None)
    if place is None:
        known = ", ".join(versions_of(deployment))
        raise Failure(f"'{deployment.name}' has no version {version}; it has {known}")
    before = VersionSpec()
    _move(changed.predictor, before)
    _move(place, changed.predictor)
    place.CopyFrom(before)
    changed.traffic.ClearField("canary")
    if changed.traffic.mirror.model_version == version:
        changed.traffic.ClearField("mirror")
    return changed


def _move(source: PredictorSpec | VersionSpec, target: PredictorSpec | VersionSpec) -> None:
    target.model_version = source.model_version
    target.storage_uri, target.sha256 = source.storage_uri, source.sha256
    target.model_format = source.model_format
    target.options.clear()
    target.options.update(source.options)

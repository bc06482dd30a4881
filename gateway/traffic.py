"""Which version of a deployment a request gets, as `Deployment.traffic` says: by rule, by session, by chance.

Pure: the request's headers, chance, and what replicas serve are asked for by functions. A request that names a version
gets that version. What the rules may say is checked where a deployment is applied (mesh/traffic_spec.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from mesh.deployments import versions_of
from mesh.traffic_spec import TAG_HEADER
from mesh.v1.registry_pb2 import Deployment, RouteRule

# The value of a request's header, by its name in lower case; None when it has none.
Header = Callable[[str], str | None]
# A number in [0, 1).
Draw = Callable[[], float]
# Whether a replica has this version of the deployment ready.
IsServed = Callable[[str], bool]


class Arm(StrEnum):
    """Why a request went where it went; the word for it in records, metrics and headers."""

    NAMED = "named"  # the request itself names the version
    RULE = "rule"
    CANARY = "canary"
    STABLE = "stable"  # the deployed version
    FALLBACK = "fallback"  # another deployment, since no replica of the asked one could answer


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes.

    asked_name: the model as the client names it; another than the deployment's on the way to a fallback. version: to be
    named in the request; empty names none. arm: None where there was nothing to decide. mirror: the version that gets
    a copy; empty: none.
    """

    deployment: Deployment
    asked_name: str
    version: str = ""
    arm: Arm | None = None
    mirror: str = ""

    @property
    def is_fallback(self) -> bool:
        return self.arm is Arm.FALLBACK

    @property
    def served_by(self) -> str:
        """Deployment and version in a word: "iris/2"."""
        return f"{self.deployment.name}/{self.version}" if self.version else self.deployment.name


def has_choice(deployment: Deployment) -> bool:
    """True when requests for the deployment can go to more than one place, or are copied.

    Its version is named in each request then, since a replica has its own idea of the deployed one, from its start.
    """
    return deployment.HasField("traffic") or bool(deployment.predictor.versions)


def route_of(deployment: Deployment, version: str, header: Header, draw: Draw, is_served: IsServed) -> Route:
    """The route of a request for `version`; empty: the request names none.

    A version that no replica has ready gets nothing, whatever rules and percents say: the deployed version does.
    """
    if version:
        return Route(deployment, deployment.name, version, Arm.NAMED)
    chosen, arm = _choice(deployment, header, draw)
    deployed = deployed_version(deployment)
    if chosen != deployed and not is_served(chosen):
        chosen, arm = deployed, Arm.STABLE
    mirror = deployment.traffic.mirror
    is_copied = mirror.percent and mirror.model_version != chosen and 100 * draw() < mirror.percent
    return Route(deployment, deployment.name, chosen, arm, mirror.model_version if is_copied else "")


def fallback_route(route: Route, fallback: Deployment) -> Route:
    """The way to the deployment that stands in; its own traffic rules are not looked at."""
    version = deployed_version(fallback) if has_choice(fallback) else ""
    return Route(fallback, route.asked_name, version, Arm.FALLBACK)


def deployed_version(deployment: Deployment) -> str:
    """The version that gets what nothing else claims."""
    return versions_of(deployment)[0]


def _choice(deployment: Deployment, header: Header, draw: Draw) -> tuple[str, Arm]:
    traffic = deployment.traffic
    for rule in traffic.rules:
        if _matches(rule, header):
            return rule.model_version, Arm.RULE
    canary = traffic.canary
    if canary.percent:
        session = header(traffic.sticky_header) if traffic.sticky_header else None
        place = draw() if session is None else _place(deployment.name, canary.model_version, session)
        if 100 * place < canary.percent:
            return canary.model_version, Arm.CANARY
    return deployed_version(deployment), Arm.STABLE


def _matches(rule: RouteRule, header: Header) -> bool:
    if rule.tag:
        return header(TAG_HEADER) == rule.tag
    value = header(rule.header)
    return value is not None and rule.value in ("", value)


def _place(name: str, version: str, session: str) -> float:
    """The session's place in [0, 1): the same at every gateway, and for one canary independent of that for another.

    Percents are thresholds on it, so a session that has the canary keeps it while the percent only grows.
    """
    digest = hashlib.blake2b("\0".join((name, version, session)).encode("utf-8", "replace"), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / (1 << 53)  # 53 bits are what a float holds exactly

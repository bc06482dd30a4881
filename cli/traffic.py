"""`meshserve traffic`: which version of a deployment gets which requests, and how that is changed.

It speaks to the registry, which tells the gateways; a change that somebody else overtook is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.failure import Failure
from cli.registry_client import RegistryClient, deployment_in, registry_address
from cli.target import find_target
from cli.traffic_view import print_traffic
from deploy.local.state_dir import DEFAULT

if TYPE_CHECKING:
    from mesh.v1.registry_pb2 import Deployment, RouteRule

Share = Annotated[str | None, typer.Option("--canary", metavar="VERSION=PERCENT", help="Give a version this share.")]
Copies = Annotated[
    str | None,
    typer.Option("--mirror", metavar="VERSION=PERCENT", help="Copy this share to a version, and compare its answers."),
]
Rules = Annotated[
    list[str] | None,
    typer.Option("--rule", metavar="HEADER:VALUE=VERSION", help="Requests with this header; no value means any."),
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="TAG=VERSION", help="Requests with the header x-meshserve-tag of this value."),
]
Sticky = Annotated[
    str | None, typer.Option("--sticky-header", metavar="HEADER", help="Keep its values on one version; '' ends that.")
]
Fallback = Annotated[
    str | None, typer.Option("--fallback", metavar="NAME", help="The deployment that stands in; '' for none.")
]


def traffic(
    name: Annotated[str, typer.Argument(help="Name of the deployment.")],
    canary: Share = None,
    mirror: Copies = None,
    rule: Rules = None,
    tag: Tags = None,
    sticky_header: Sticky = None,
    fallback: Fallback = None,
    clear: Annotated[bool, typer.Option("--clear", help="First take away canary, rules and mirror.")] = False,
    registry: options.Registry = None,
    state_dir: options.StateDirectory = DEFAULT,
    timeout: options.Timeout = 10.0,
    as_json: options.AsJson = False,
) -> None:
    """Show how a deployment's requests are divided among its versions, or change it.

    Examples:

      meshserve traffic iris

      meshserve traffic iris --canary 2=10 --sticky-header x-session

      meshserve traffic iris --rule x-group:beta=2 --mirror 3=100

      meshserve traffic iris --clear
    """
    client = RegistryClient(registry_address(registry, find_target(None, state_dir)), timeout_s=timeout)
    snapshot = client.snapshot()
    deployment = deployment_in(snapshot, name)
    changed = _changed(deployment, canary, mirror, [*map(_rule, rule or []), *map(_tag, tag or [])], clear=clear)
    changed = _with_settings(changed, sticky_header, fallback)
    if changed != deployment:
        deployment = client.apply(changed)
    print_traffic(deployment, snapshot, as_json=as_json)


def _changed(
    deployment: Deployment, canary: str | None, mirror: str | None, rules: list[RouteRule], *, clear: bool
) -> Deployment:
    from cli import rollout

    if clear:
        deployment = rollout.cleared(deployment)
    if canary is not None:
        deployment = rollout.with_canary(deployment, *_share(canary, "--canary"))
    if mirror is not None:
        deployment = rollout.with_mirror(deployment, *_share(mirror, "--mirror"))
    return rollout.with_rules(deployment, rules) if rules else deployment


def _with_settings(deployment: Deployment, sticky_header: str | None, fallback: str | None) -> Deployment:
    from cli import rollout

    if sticky_header is None and fallback is None:
        return deployment
    return rollout.with_settings(deployment, sticky_header=sticky_header, fallback=fallback)


def _share(text: str, option: str) -> tuple[str, int]:
    version, separator, percent = text.partition("=")
    percent = percent.removesuffix("%")
    if not (version and separator and percent.isascii() and percent.isdecimal() and int(percent) <= 100):
        raise Failure(f"{option} '{text}' is no VERSION=PERCENT", f"write it like {option} 2=10")
    return version, int(percent)


def _rule(text: str) -> RouteRule:
    from mesh.v1.registry_pb2 import RouteRule

    matched, separator, version = text.rpartition("=")
    header, _, value = matched.partition(":")
    if not (separator and header and version):
        raise Failure(f"--rule '{text}' is no HEADER:VALUE=VERSION", "write it like --rule x-group:beta=2")
    return RouteRule(header=header.lower(), value=value, model_version=version)


def _tag(text: str) -> RouteRule:
    from mesh.v1.registry_pb2 import RouteRule

    tag, separator, version = text.rpartition("=")
    if not (separator and tag and version):
        raise Failure(f"--tag '{text}' is no TAG=VERSION", "write it like --tag beta=2")
    return RouteRule(tag=tag, model_version=version)

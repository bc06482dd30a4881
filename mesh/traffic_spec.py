"""The rules for how a deployment divides its requests: what `Deployment.traffic` may say.

Pure checks of one deployment. How a request is then sent is the gateway's (gateway/traffic.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection

from mesh.errors import InvalidInput
from mesh.names import check_name, check_text, shown
from mesh.v1.registry_pb2 import RouteRule, TrafficSpec

# By which a client asks for one side of a test: RouteRule.tag.
TAG_HEADER = "x-meshserve-tag"

MAX_RULES = 64
MAX_VALUE_CHARS = 1024
_MAX_HEADER_CHARS = 128
# A field name of HTTP (RFC 9110, "token"), in lower case as HTTP/2 sends it.
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)


def check_traffic(traffic: TrafficSpec, name: str, versions: Collection[str]) -> None:
    """Raise InvalidInput that names the field that is wrong.

    name: of the deployment. versions: all of it, first the deployed one.
    """
    if traffic.HasField("canary"):
        _check_version(traffic.canary.model_version, "traffic.canary.model_version", versions)
        _check_percent(traffic.canary.percent, "traffic.canary.percent")
        deployed = next(iter(versions))
        if traffic.canary.model_version == deployed:
            raise InvalidInput(
                f"traffic.canary.model_version {shown(deployed)} is the deployed version, which gets the rest anyway",
                field="traffic.canary.model_version",
            )
    if traffic.HasField("mirror"):
        _check_version(traffic.mirror.model_version, "traffic.mirror.model_version", versions)
        _check_percent(traffic.mirror.percent, "traffic.mirror.percent")
    if len(traffic.rules) > MAX_RULES:
        raise InvalidInput(f"traffic.rules has {len(traffic.rules)} rules; the limit is {MAX_RULES}", field="traffic")
    for index, rule in enumerate(traffic.rules):
        _check_rule(rule, f"traffic.rules[{index}]", versions)
    if traffic.sticky_header:
        _check_header(traffic.sticky_header, "traffic.sticky_header")
    if traffic.previous_version:
        _check_version(traffic.previous_version, "traffic.previous_version", versions)
    if traffic.fallback:
        check_name(traffic.fallback, "traffic.fallback")
        if traffic.fallback == name:
            raise InvalidInput(
                f"traffic.fallback is {shown(name)} itself; name another deployment", field="traffic.fallback"
            )


def _check_rule(rule: RouteRule, where: str, versions: Collection[str]) -> None:
    if bool(rule.header) == bool(rule.tag):
        raise InvalidInput(f"{where} must name either a header or a tag", field=where)
    if rule.tag:
        check_name(rule.tag, f"{where}.tag")
        if rule.value:
            raise InvalidInput(f"{where}.value belongs to a header, and the rule has a tag", field=f"{where}.value")
    else:
        _check_header(rule.header, f"{where}.header")
        check_text(rule.value, f"{where}.value", MAX_VALUE_CHARS)
    _check_version(rule.model_version, f"{where}.model_version", versions)


def _check_version(version: str, field: str, versions: Collection[str]) -> None:
    if version not in versions:
        raise InvalidInput(
            f"{field} {shown(version)} is no version of the deployment; it has {', '.join(versions)}", field=field
        )


def _check_percent(percent: int, field: str) -> None:
    if not 0 <= percent <= 100:
        raise InvalidInput(f"{field} is {percent}; it must be within 0..100", field=field)


def _check_header(header: str, field: str) -> None:
    # A name in "-bin" means bytes to gRPC, and no text that a rule could be compared with.
    if not _HEADER.fullmatch(header) or len(header) > _MAX_HEADER_CHARS or header.endswith("-bin"):
        raise InvalidInput(
            f"{field} {shown(header)} is no name of a header: use lower case as in 'x-user-group', "
            f"at most {_MAX_HEADER_CHARS} characters, and no '-bin' at the end",
            field=field,
        )

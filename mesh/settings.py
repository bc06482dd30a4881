"""Settings: one frozen class a service is the only declaration; flags > environment > file.

A field's default, unit and one-line description stand in the class, and the command line, the environment and the
docs follow from it. A field `grpc_port` of the gateway is the flag `--grpc-port`, the variable
MESHSERVE_GATEWAY_GRPC_PORT (else MESHSERVE_GRPC_PORT), and the key `grpc_port` of the file named by `--config`.
This is the only module that reads the environment. The parsing is pydantic-settings'.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
from pydantic_settings.sources import PydanticBaseSettingsSource

from mesh.call_limits import CallLimits

ENVIRONMENT_PREFIX = "MESHSERVE_"


class ServiceSettings(BaseSettings):
    """What every service can be told. Services add their own fields by subclassing."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    advertise_host: str = Field("", description="Host that others use; empty: `host`, or this machine's name.")
    grpc_port: int = Field(0, ge=0, le=65535, description="Port of the gRPC server; 0 picks a free one.")
    metrics_port: int = Field(0, ge=0, le=65535, description="Port of /metrics and /healthz; 0 picks a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level to log.")
    log_format: Literal["json", "console"] = Field("json", description="One JSON object a line, or for people.")
    drain_s: float = Field(2.0, ge=0, le=300, description="Seconds between NOT_SERVING and refusing new requests.")
    grace_s: float = Field(20.0, ge=0, le=3600, description="Seconds that running requests get to finish on SIGTERM.")
    max_message_bytes: int = Field(64 << 20, ge=1 << 10, le=2**31 - 1, description="Largest gRPC message, in bytes.")
    max_concurrent_rpcs: int = Field(4096, ge=1, description="RPCs in flight; more get RESOURCE_EXHAUSTED at once.")
    registry: str | None = Field(None, description="host:port of the registry; not set: no registry.")
    endpoints: Path | None = Field(
        None, description="YAML file of endpoints, instead of a registry; read again on change."
    )
    state_dir: Path = Field(Path(".meshserve"), description="Folder for what must outlive the process.")
    otlp_endpoint: str | None = Field(None, description="http://host:port of an OTLP/gRPC trace receiver.")
    trace_file: Path | None = Field(None, description="File to append finished spans to, one JSON object a line.")
    ready_file: Path | None = Field(None, description="File to write the bound addresses to, as JSON.")
    config: Path | None = Field(None, description="YAML file with settings; flags and environment win over it.")

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_sources: Any, **_named: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Only what `read_settings` merged: the library's own look at the environment has no service's name in it.
        return (init_settings,)


class CallingServiceSettings(ServiceSettings):
    """What a service can be told that calls the replicas of a next hop."""

    balancing: str = Field("prefix_affinity", description="Policy that picks a replica of the next hop.")
    max_in_flight_per_replica: int = Field(
        1024, ge=1, le=1_000_000, description="Calls in flight at one replica; while all have as many, requests wait."
    )
    max_queued: int = Field(
        1024,
        ge=0,
        le=1_000_000,
        description="Requests that wait for a replica of one deployment; more get 429 at once.",
    )
    queue_timeout_s: float = Field(
        30.0, gt=0, le=86_400, description="Seconds that a request waits while all replicas are busy."
    )
    hold_s: float = Field(
        10.0,
        ge=0,
        le=86_400,
        description="Seconds that a request waits while no replica is ready or can be reached; 0: it fails at once.",
    )
    hedge_after_ms: float = Field(
        0.0,
        ge=0,
        le=3_600_000,
        description="Milliseconds without an answer after which a unary call goes to a second replica too; 0: never.",
    )

    @property
    def call_limits(self) -> CallLimits:
        """The same, as the pool takes it."""
        return CallLimits(
            max_in_flight_per_replica=self.max_in_flight_per_replica,
            max_queued=self.max_queued,
            queue_timeout_s=self.queue_timeout_s,
            hold_s=self.hold_s,
            hedge_after_s=self.hedge_after_ms / 1000,
        )


S = TypeVar("S", bound=ServiceSettings)


class SettingsError(Exception):
    """A setting is wrong. The message is one sentence that names field, value and what is allowed."""


def load_settings(
    settings_class: type[S],
    *,
    prog: str,
    argv: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> S:
    """The settings of the service `prog`. A wrong value ends the process with status 2 and one sentence on stderr."""
    try:
        return read_settings(settings_class, prog=prog, argv=argv, environment=environment)
    except SettingsError as error:
        print(f"{prog}: {error}", file=sys.stderr)  # noqa: T201 -- logs are not configured yet
        raise SystemExit(2) from None


def read_settings(
    settings_class: type[S],
    *,
    prog: str,
    argv: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> S:
    """As `load_settings`, but raises SettingsError. `--help` and unknown flags exit, as argparse does."""
    environment = os.environ if environment is None else environment
    flags = _flags(settings_class, prog, sys.argv[1:] if argv is None else argv)
    variables = _variables(settings_class, prog, environment)
    named_file = flags.get("config") or variables.get("config")
    from_file = _file_values(settings_class, Path(str(named_file))) if named_file else {}
    try:
        return settings_class(**{**from_file, **variables, **flags})
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from None


def redacted(settings: ServiceSettings) -> dict[str, object]:
    """All settings as plain values, secrets as '***': safe to log."""
    dump = settings.model_dump(mode="json")
    for name in type(settings).model_fields:
        if isinstance(getattr(settings, name), SecretStr):
            dump[name] = "***"
    return dump


def _flags(settings_class: type[ServiceSettings], prog: str, argv: Sequence[str]) -> dict[str, Any]:
    source: CliSettingsSource[Any] = CliSettingsSource(
        settings_class,
        cli_parse_args=list(argv),
        cli_prog_name=prog,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )
    return dict(source())


def _variables(settings_class: type[ServiceSettings], prog: str, environment: Mapping[str, str]) -> dict[str, object]:
    service = prog.rsplit(".", 1)[-1].upper()
    values: dict[str, object] = {}
    for name in settings_class.model_fields:
        for variable in (
            f"{ENVIRONMENT_PREFIX}{service}_{name.upper()}",
            f"{ENVIRONMENT_PREFIX}{name.upper()}",
        ):
            if variable in environment:
                values[name] = _decoded(environment[variable], settings_class.model_fields[name])
                break
    return values


def _decoded(text: str, field: FieldInfo) -> object:
    # Lists and maps are written as YAML in a variable: '[a, b]'. Scalars are left to the field's own type.
    if text[:1] in "[{" and "str | None" not in str(field.annotation):
        return yaml.safe_load(text)
    return text


def _file_values(settings_class: type[ServiceSettings], path: Path) -> dict[str, object]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"config: cannot read '{path}': {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"config: '{path}' is not YAML: {str(error).splitlines()[0]}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"config: '{path}' must hold a map of settings")
    unknown = sorted(str(key) for key in values if key not in settings_class.model_fields)
    if unknown:
        known = ", ".join(sorted(settings_class.model_fields))
        raise SettingsError(f"config: '{path}' has the unknown setting '{unknown[0]}'; known are: {known}")
    return values


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "settings"
    return f"{field}: {first['input']!r} is not allowed: {first['msg'].lower()}"

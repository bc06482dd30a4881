"""The five services of a local mesh as command lines: addresses, files and flags, in the order of their start.

The only module that knows which flags a service takes. Services meet by the registry, so the others need nobody's
address but its.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.local.ports import Ports
from deploy.local.process import Command
from deploy.local.state_dir import StateDir

# Seconds between NOT_SERVING and refusing: nothing stands before a local service that would have to notice.
_DRAIN_S = 0.2
GRACE_S = 5.0
LOOPBACK = "127.0.0.1"

# Numeric libraries start a thread per core in every process. Only the predictor computes, and it sets its own number.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")

# gRPC's older poller reads in the thread that waits for messages; the newer one hands each over to one more thread,
# which costs a third more CPU a message, and wakes up while nothing happens. Figures: docs/log.md.
GRPC_POLLER = {"GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener"}


def client_host(host: str) -> str:
    """The host by which a client on this machine reaches a server that listens on `host`."""
    return LOOPBACK if host == "0.0.0.0" else host


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """How to start one service and where it then is. It starts when those in `after` serve.

    Services of one `stop_wave` end together, the waves one after the other from 0.
    `health_names` are the names beside "" that its health service must say SERVING for: its models.
    """

    name: str
    command: Command
    grpc_address: str
    metrics_address: str
    ready_file: Path
    log_path: Path
    http_address: str | None = None
    after: tuple[str, ...] = ()
    health_names: tuple[str, ...] = ()
    stop_wave: int = 0


@dataclass(frozen=True, slots=True)
class _Builder:
    ports: Ports
    state: StateDir
    log_level: str

    def service(
        self,
        name: str,
        flags: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        health_names: tuple[str, ...] = (),
        http_port: int | None = None,
        after: tuple[str, ...] = ("registry",),
        host: str = LOOPBACK,
        stop_wave: int = 1,
    ) -> ServiceSpec:
        grpc_port, metrics_port = getattr(self.ports, name), getattr(self.ports, f"{name}_metrics")
        is_registry = name == "registry"
        common = (
            *(
                "--host",
                host,
                "--advertise-host",
                client_host(host),
                "--grpc-port",
                str(grpc_port),
                "--metrics-port",
                str(metrics_port),
            ),
            *("--drain-s", str(_DRAIN_S), "--grace-s", str(GRACE_S), "--log-level", self.log_level),
            *("--state-dir", str(self.state.path / name), "--trace-file", str(self.state.trace_file)),
            *("--ready-file", str(self.state.ready_file(name))),
            *(() if is_registry else ("--registry", f"{LOOPBACK}:{self.ports.registry}")),
        )
        return ServiceSpec(
            name=name,
            command=Command(
                (sys.executable, "-m", name, *common, *flags),
                {"PYTHONUNBUFFERED": "1", **GRPC_POLLER, **(environment or {})},
            ),
            grpc_address=f"{client_host(host)}:{grpc_port}",
            metrics_address=f"{client_host(host)}:{metrics_port}",
            ready_file=self.state.ready_file(name),
            log_path=self.state.log_file(name),
            http_address=None if http_port is None else f"{client_host(host)}:{http_port}",
            after=after,
            health_names=health_names,
            stop_wave=stop_wave,
        )


def service_specs(
    state: StateDir,
    ports: Ports,
    *,
    deployments_file: Path,
    models: tuple[str, ...],
    host: str = LOOPBACK,
    log_level: str = "info",
) -> tuple[ServiceSpec, ...]:
    """Registry, predictor, transformer, explainer, gateway. The gateway ends first, the registry last.

    `host` is the gateway's: the others trust whoever reaches them, so they listen on this machine only.
    """
    build = _Builder(ports, state, log_level)
    deployments = ("--deployments", str(deployments_file))
    return (
        build.service("registry", deployments, ONE_THREAD, after=(), stop_wave=2),
        # It takes longest, knows its models from the file, and announces itself once the registry is there.
        build.service("predictor", deployments, health_names=models, after=()),
        build.service("transformer", environment=ONE_THREAD),
        build.service("explainer", environment=ONE_THREAD),
        build.service(
            "gateway",
            (
                *("--http-port", str(ports.gateway_http)),
                *("--prediction-log-file", str(state.prediction_log_file)),
            ),
            ONE_THREAD,
            health_names=models,
            http_port=ports.gateway_http,
            host=host,
            # It lets no request in any more, so the others have nothing left to finish.
            stop_wave=0,
        ),
    )

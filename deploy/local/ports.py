"""The ports of a local mesh: chosen once for the life of `up`, so that a restarted service comes back where it was.

Says who has a taken port where the operating system tells (Linux: /proc), and what to do about it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from mesh.serve import PortTaken

_METRICS_OFFSET = 1100
_MAX_PORT = 65535
_LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port that the mesh listens on; metrics ports belong to the gRPC port of the same service."""

    gateway_http: int = 8080
    gateway: int = 8081
    registry: int = 8090
    transformer: int = 8091
    predictor: int = 8092
    explainer: int = 8093
    gateway_metrics: int = 8081 + _METRICS_OFFSET
    registry_metrics: int = 8090 + _METRICS_OFFSET
    transformer_metrics: int = 8091 + _METRICS_OFFSET
    predictor_metrics: int = 8092 + _METRICS_OFFSET
    explainer_metrics: int = 8093 + _METRICS_OFFSET

    def named(self) -> Iterator[tuple[str, int]]:
        """("gateway http", 8080), …"""
        for field in fields(self):
            name = field.name if "_" in field.name else f"{field.name}_gRPC"
            yield name.replace("_http", "_HTTP").replace("_", " "), getattr(self, field.name)


def default_ports(offset: int = 0, http_port: int | None = None) -> Ports:
    """The default ports, each moved by `offset`; `http_port` sets the gateway's HTTP port itself (0: a free one)."""
    moved = {field.name: _in_range(field.name, field.default, offset) for field in fields(Ports)}
    if http_port is not None:
        moved["gateway_http"] = http_port or _free_ports(1)[0]
    return Ports(**moved)


def free_ports() -> Ports:
    """Ports that nobody listens on now."""
    return Ports(*_free_ports(len(fields(Ports))))


def require_free(host: str, ports: Ports) -> None:
    """Raise PortTaken with the first taken port, its owner where known, and the way out."""
    for name, port in ports.named():
        if not _is_free(host, port):
            owner = _owner_of(port)
            raise PortTaken(
                f"port {port} ({name}) is taken by {owner or 'another process'}; stop it, or {_way_out(name)}",
                field="port",
            )


def _way_out(name: str) -> str:
    move_all = "move all ports with --port-offset 100"
    return f"set --http-port, or {move_all}" if name == "gateway HTTP" else move_all


def _in_range(name: str, default: object, offset: int) -> int:
    assert isinstance(default, int)
    port = default + offset
    if not 1 <= port <= _MAX_PORT:
        raise PortTaken(
            f"--port-offset {offset} moves the port of {name} to {port}; ports go from 1 to {_MAX_PORT}",
            field="port_offset",
        )
    return port


def _free_ports(count: int) -> list[int]:
    # All are held until all are known, so that no port comes twice.
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: connections of a former run that linger in TIME_WAIT do not take the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def _owner_of(port: int) -> str | None:
    """ "python (pid 4711)", or None where it cannot be known."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening_inodes(table, port)}
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(_inode_of(descriptor) in inodes for descriptor in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return None


def _inode_of(descriptor: Path) -> str | None:
    with suppress(OSError):
        target = str(descriptor.readlink())
        if target.startswith("socket:["):
            return target[len("socket:[") : -1]
    return None


def _listening_inodes(table: str, port: int) -> Iterator[str]:
    with suppress(OSError):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]

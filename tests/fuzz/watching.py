"""What a service must be after all cases as it was before: the same process, no request in flight, nothing kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.interop.served import Served, until

IN_FLIGHT = ("meshserve_rpc_in_flight", "meshserve_gateway_requests_in_flight")
SETTLE_S = 30.0
# Buffers, caches and threads that the first requests make; a leak of 1 KiB a case is more over 20,000.
MAX_GROWTH_BYTES = 256 << 20
MAX_MORE_FILES = 16
UNEXPECTED = ("unexpected_error", "stream_request_failed")


@dataclass(frozen=True)
class Before:
    """Of one service."""

    created: float
    rss_bytes: int
    num_files: int
    num_in_flight: int
    num_unexpected: int


def look(mesh: Served) -> dict[str, Before]:
    """Every service as it is now, by name."""
    return {name: _of(mesh, name) for name in mesh.processes}


def faults(mesh: Served, before: dict[str, Before]) -> list[str]:
    """What is not as it was, in words; in-flight requests get SETTLE_S seconds to end."""
    found = []
    for name, was in before.items():
        process = mesh.processes[name]
        if process.poll() is not None:
            found.append(f"{name} ended with {process.returncode}: {mesh.log(name)[-2000:]}")
            continue
        # Not zero: services keep streams to one another open.
        settled = partial(_has_settled, mesh, name, was.num_in_flight)
        until(settled, SETTLE_S, f"{name} has no more requests in flight than it had")
        now = _of(mesh, name)
        if now.created != was.created:
            found.append(f"{name} is another process")
        if now.rss_bytes - was.rss_bytes > MAX_GROWTH_BYTES:
            found.append(f"{name} grew from {was.rss_bytes >> 20} to {now.rss_bytes >> 20} MiB")
        if now.num_files - was.num_files > MAX_MORE_FILES:
            found.append(f"{name} has {now.num_files} open files, had {was.num_files}")
        if now.num_unexpected > was.num_unexpected:
            found.append(f"{name} logged unexpected errors: {_unexpected(mesh, name)[was.num_unexpected][:3000]}")
    return found


def num_in_flight(mesh: Served, name: str) -> int:
    """Requests that the service says it is answering."""
    text = httpx.get(f"http://{mesh.addresses(name)['metrics_address']}/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return int(sum(sample.value for sample in samples if sample.name in IN_FLIGHT))


def _of(mesh: Served, name: str) -> Before:
    process = psutil.Process(mesh.processes[name].pid)
    return Before(
        created=process.create_time(),
        rss_bytes=process.memory_info().rss,
        num_files=process.num_fds(),
        num_in_flight=num_in_flight(mesh, name),
        num_unexpected=len(_unexpected(mesh, name)),
    )


def _has_settled(mesh: Served, name: str, most: int) -> bool:
    return num_in_flight(mesh, name) <= most


def _unexpected(mesh: Served, name: str) -> list[str]:
    """The log's events of what should never happen."""
    lines = [line for line in mesh.log(name).splitlines() if any(event in line for event in UNEXPECTED)]
    return [line for line in lines if json.loads(line)["event"] in UNEXPECTED]

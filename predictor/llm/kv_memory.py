"""How many KV blocks the engine may have: a fixed number of bytes, or a share of the memory that is free.

Free is what the kernel can give without swapping and what every control group above this process still allows, since
in a container the machine's own figure is a promise that ends in the OOM killer. Linux only; elsewhere half of the
physical memory counts as free.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mesh.errors import InvalidInput
from predictor.llm.settings import EngineSettings


def plan_num_blocks(settings: EngineSettings, block_bytes: int, max_context_tokens: int, free_bytes: int) -> int:
    """Number of KV blocks of `block_bytes` each. Raises InvalidInput when the budget has no room for a single one."""
    budget_bytes = settings.kv_cache_bytes or int(free_bytes * settings.kv_cache_share)
    num_blocks = budget_bytes // block_bytes
    if not settings.kv_cache_bytes:
        num_blocks = min(num_blocks, settings.max_num_seqs * -(-max_context_tokens // settings.block_size))
    if num_blocks < 1:
        raise InvalidInput(
            f"the KV cache may take {budget_bytes} bytes; "
            f"one block of {settings.block_size} tokens takes {block_bytes}",
            field="kv_cache_bytes",
        )
    return num_blocks


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Bytes that this process can still allocate. `root` is where proc and sys are found."""
    meminfo = root / "proc" / "meminfo"
    if not meminfo.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    available_bytes = int(fields["MemAvailable"].split()[0]) * 1024
    return max(0, min([available_bytes, *_cgroup_rooms(root)]))


def _cgroup_rooms(root: Path) -> Iterator[int]:
    """Bytes left in each control group with a limit that this process is in, version 2 and 1."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _rooms_upwards(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            yield from _rooms_upwards(
                root / "sys/fs/cgroup/memory",
                path,
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )


def _rooms_upwards(mount: Path, path: str, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    group = mount / path.lstrip("/")
    # A container sees its own group as the root of the mount, under whatever path the host knows it by.
    for folder in [*(g for g in (group, *group.parents) if g.is_relative_to(mount) and g != mount), mount]:
        try:
            limit_bytes = int((folder / limit).read_text())
            usage_bytes = int((folder / usage).read_text())
        except (OSError, ValueError):  # no such group here, or no limit ("max")
            continue
        yield limit_bytes - usage_bytes + _statistic(folder / "memory.stat", reclaimable)


def _statistic(path: Path, name: str) -> int:
    try:
        fields = dict(line.split() for line in path.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(fields.get(name, 0))

"""The KV cache gets what the settings say, or a share of what every limit above the process leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import InvalidInput
from predictor.llm.kv_memory import free_memory_bytes, plan_num_blocks
from predictor.llm.settings import EngineSettings

GIB = 1024**3


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {8 * GIB // 1024} kB\n"}


def test_a_fixed_budget_is_taken_as_it_is() -> None:
    settings = EngineSettings(kv_cache_bytes=1000, max_num_seqs=1, block_size=16)

    assert plan_num_blocks(settings, block_bytes=10, max_context_tokens=16, free_bytes=0) == 100


def test_a_share_of_free_memory_is_bounded_by_what_can_be_used() -> None:
    settings = EngineSettings(kv_cache_share=0.5, max_num_seqs=2, block_size=16)

    assert plan_num_blocks(settings, block_bytes=10, max_context_tokens=1000, free_bytes=1000) == 50
    assert plan_num_blocks(settings, block_bytes=10, max_context_tokens=100, free_bytes=10**6) == 2 * 7


def test_a_budget_without_room_for_a_block_is_refused() -> None:
    with pytest.raises(InvalidInput, match="may take 9 bytes; one block of 16 tokens takes 10"):
        plan_num_blocks(EngineSettings(kv_cache_bytes=9), block_bytes=10, max_context_tokens=16, free_bytes=0)


def test_without_groups_what_the_kernel_has_available_is_free(tmp_path: Path) -> None:
    assert free_memory_bytes(write(tmp_path, MEMINFO)) == 8 * GIB


def test_a_limit_on_a_group_above_counts(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/container/memory.max": "max\n",
            "sys/fs/cgroup/pod/container/memory.current": "5\n",
            "sys/fs/cgroup/pod/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/pod/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
        },
    )

    assert free_memory_bytes(root) == GIB + GIB // 2


def test_a_container_finds_its_limit_at_the_root_of_the_mount(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "0::/known/to/the/host\n",
            "sys/fs/cgroup/memory.max": f"{2 * GIB}",
            "sys/fs/cgroup/memory.current": "0",
        },
    )

    assert free_memory_bytes(root) == 2 * GIB


def test_a_version_1_group_counts(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "11:cpu,cpuacct:/\n4:memory:/box\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{GIB}",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{2 * GIB}",
        },
    )

    assert free_memory_bytes(root) == 0


def test_this_machine_has_some_free_memory() -> None:
    assert free_memory_bytes() > 0

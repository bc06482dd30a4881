"""Triton's perf_analyzer measures us as it does Triton: it asks for metadata, configuration and statistics first."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pytest

from tests.interop import environments
from tests.interop.served import Served

MEASURE_S = 100.0
NUM_REQUESTS = 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("service", "protocol", "flags"),
    [
        ("gateway", "grpc", ()),
        ("gateway", "grpc", ("--streaming",)),
        ("gateway", "http", ()),
        ("predictor", "grpc", ()),
        ("predictor", "grpc", ("--streaming",)),
    ],
    ids=lambda value: "".join(value) if isinstance(value, tuple) else value,
)
def test_perf_analyzer_measures(
    service: str, protocol: str, flags: tuple[str, ...], mesh: Served, tmp_path: Path
) -> None:
    try:
        folder = environments.ready("perf_analyzer")
    except environments.CannotInstall as error:
        pytest.skip(str(error))
    address = mesh.addresses(service)[f"{protocol}_address"]

    done = subprocess.run(
        [
            *(str(folder / "bin" / "perf_analyzer"), "-m", "iris", "-u", address, "-i", protocol),
            *("--request-count", str(NUM_REQUESTS), "--concurrency-range", "2:2", "-f", str(tmp_path / "report.csv")),
            *flags,
        ],
        capture_output=True, text=True, timeout=MEASURE_S, check=False, cwd=tmp_path,
        env={**os.environ, "LD_LIBRARY_PATH": _library_path(folder)},
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    with (tmp_path / "report.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["Concurrency"] == "2"
    assert float(row["Inferences/Second"]) > 0


def _library_path(folder: Path) -> str:
    """CUDA's runtime, which it is linked to and does not use, and libb64 where the system has none."""
    system = folder / "system" / "usr" / "lib"
    return ":".join(str(path) for path in [folder / "nvidia" / "cuda_runtime" / "lib", *system.glob("*-linux-gnu")])

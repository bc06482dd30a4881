"""docs/rest.md: its commands run as they stand, against a gateway whose models are fakes; its names are the code's."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.rest.non_finite import ALLOW, LABEL
from gateway.settings import GatewaySettings
from mesh.tensors import DATATYPES
from tests.contract.rest_mesh import in_thread
from tests.gateway.conftest import open_door

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "rest.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with in_thread(open_door(tmp_path_factory.mktemp("door"))) as door:
        yield door.url


@pytest.mark.parametrize("command", COMMANDS)
def test_command_works(url: str, command: str) -> None:
    command = command.replace("http://127.0.0.1:8080", url).replace("/iris", "/echo").replace("/smollm2", "/chat")

    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout.startswith("{")
    assert '"error"' not in done.stdout


def test_names_are_those_of_the_code() -> None:
    assert f"labels: {{{LABEL}: {ALLOW}}}" in PAGE
    assert {"max_body_bytes", "compress_min_bytes"} <= set(GatewaySettings.model_fields)
    assert all(name in PAGE for name in ("BOOL", "INT8", "UINT64", "FP16", "BF16", "FP32", "FP64", "BYTES"))
    assert "FP16" in DATATYPES

"""docs/anthropic.md: its example runs with the stock client."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.gateway.conftest import open_door
from tests.interop import environments

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "anthropic.md").read_text(encoding="utf-8")


@pytest.mark.slow
async def test_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    try:
        python = environments.python_of(await asyncio.to_thread(environments.ready, "sdk"))
    except environments.CannotInstall as error:
        pytest.skip(str(error))

    async with open_door(tmp_path) as door:
        program = example.replace("http://127.0.0.1:8080", door.url).replace('"smollm2"', '"chat"')
        process = await asyncio.create_subprocess_exec(
            str(python), "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(100):
            out, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    assert '{"city": "Paris"}' in out.decode()
    assert "Hello wörld!" in out.decode()

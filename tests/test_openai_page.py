"""docs/openai.md: its table is what the code does, field by field, and its examples run with the stock client."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from gateway.rest.openai_requests import ChatCompletionRequest, CompletionRequest
from tests.gateway.conftest import Door, open_door
from tests.gateway.fake_text_models import open_text_door

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "openai.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ROWS = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \|", PAGE, re.MULTILINE)

CHAT, TEXT = 1, 2
APIS: Any = pytest.mark.parametrize(
    ("column", "request_class", "stock"),
    [
        (CHAT, ChatCompletionRequest, chat_create_params.CompletionCreateParamsBase),
        (TEXT, CompletionRequest, completion_create_params.CompletionCreateParamsBase),
    ],
)


def fields(column: int, *words: str) -> set[str]:
    return {row[0] for row in ROWS if row[column] in words}


def test_each_field_has_one_row_and_known_words() -> None:
    assert len(ROWS) == len({row[0] for row in ROWS}) > 60
    assert {word for row in ROWS for word in row[1:]} == {"served", "refused", "ignored", "–"}


@APIS
def test_table_is_what_the_code_does(column: int, request_class: Any, stock: Any) -> None:
    served = {field.alias or name for name, field in request_class.model_fields.items()}

    assert fields(column, "served") == served
    assert fields(column, "refused") == set(request_class.not_served)


@APIS
def test_table_has_every_field_of_the_stock_client(column: int, request_class: Any, stock: Any) -> None:
    assert set(stock.__annotations__) - fields(column, "served", "refused", "ignored") == set()


def test_there_are_five_examples() -> None:
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("example", EXAMPLES)
async def test_example_runs(example: str, tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, open_text_door(tmp_path) as (text_door, _):
        printed = await run(example, text_door if ".embeddings." in example else door)

    assert printed.strip()


async def run(example: str, door: Door) -> str:
    program = (
        example.replace("http://127.0.0.1:8080", door.url).replace('"smollm2"', '"chat"').replace('"minilm"', '"embed"')
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()

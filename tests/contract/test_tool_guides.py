"""The grammars that the transformer writes for tools are such as the predictor takes: the two meet on the wire only."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mesh.errors import InvalidInput
from mesh.plugins import load
from predictor.llm.guide import GuideKind, GuideSpec
from predictor.llm.guides.maker import LlguidanceGuides
from predictor.llm.guides.vocabulary import guide_vocabulary
from tests.predictor.llm.small_tokenizers import small_tokenizer
from transformer.tools import FORMATS
from transformer.tools.declarations import read_tool_use
from transformer.tools.format import ToolFormat

TOKENIZER = small_tokenizer()
# A schema with a keyword that no grammar can express: without `strict` it is passed over.
WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "not": {"required": ["country"]},
    },
}
CALLS = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
    "llama3": '{"name": "get_weather", "parameters": {"city": "Paris"}}',
}


@pytest.fixture(scope="module")
def guides() -> Iterator[LlguidanceGuides]:
    maker = LlguidanceGuides(guide_vocabulary(TOKENIZER))
    yield maker
    maker.close()


def spec_of(name: str, choice: str, function: dict[str, object]) -> GuideSpec:
    use = read_tool_use(json.dumps([{"type": "function", "function": function}]), choice)
    assert use is not None
    tool_format: ToolFormat = load(FORMATS, name, "tool format")()
    return GuideSpec(GuideKind.GRAMMAR, tool_format.grammar(use))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("choice", ["auto", "required", "function:get_weather"])
def test_a_call_follows_the_guide_to_its_end(guides: LlguidanceGuides, name: str, choice: str) -> None:
    spec = spec_of(name, choice, WEATHER)

    guides.check(spec)
    guide = guides.start(spec)
    for token_id in TOKENIZER.encode(CALLS[name]):
        guide.accept(token_id)

    allowed = guide.allowed()
    assert all(allowed[eos_id // 8] >> eos_id % 8 & 1 for eos_id in TOKENIZER.eos_ids)


@pytest.mark.parametrize("name", FORMATS)
def test_a_strict_schema_that_cannot_be_kept_is_refused_by_name(guides: LlguidanceGuides, name: str) -> None:
    with pytest.raises(InvalidInput, match="keyword 'not' at # is not supported"):
        guides.check(spec_of(name, "auto", {**WEATHER, "strict": True}))

"""What is compiled is kept, within bounds."""

from __future__ import annotations

import pytest

from mesh.errors import InvalidInput
from predictor.llm.guides.maker import LlguidanceGuides
from predictor.llm.guides.vocabulary import guide_vocabulary
from predictor.llm.tokenizer import Tokenizer
from tests.predictor.llm.guides.specs import json_object, regex


def test_a_spec_is_compiled_once_and_the_least_used_is_forgotten(bytes_tokenizer: Tokenizer) -> None:
    maker = LlguidanceGuides(guide_vocabulary(bytes_tokenizer), max_compiled=2)

    for spec in (regex("a"), regex("b"), regex("a"), regex("c")):
        maker.start(spec)

    assert list(maker._compiled) == [regex("a"), regex("c")]


def test_what_does_not_compile_is_not_kept(bytes_guides: LlguidanceGuides) -> None:
    with pytest.raises(InvalidInput, match="unclosed group"):
        bytes_guides.start(regex("("))

    assert regex("(") not in bytes_guides._compiled


def test_a_maker_that_is_closed_can_still_start_and_check(bytes_tokenizer: Tokenizer) -> None:
    maker = LlguidanceGuides(guide_vocabulary(bytes_tokenizer))
    maker.close()

    maker.check(json_object())
    assert maker.start(json_object()).allowed()
    maker.close()
    maker.close()

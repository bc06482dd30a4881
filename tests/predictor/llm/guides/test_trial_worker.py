"""What the worker says about a guide it could compile: here without the process around it."""

from __future__ import annotations

import pytest

from predictor.llm.guide import GuideSpec
from predictor.llm.guides.maker import LlguidanceGuides
from predictor.llm.guides.trial import TrialLimits
from predictor.llm.guides.trial_worker import follow, verdict
from tests.predictor.llm.guides.specs import grammar, json_object, regex


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (json_object(), ""),
        (regex(r"(a\x04|b)"), ""),  # one way leads on, so the model may find it
        (regex(r"a\x04"), "regex: after 1 tokens of output no token can follow"),
        (regex("("), "regex is not taken: unclosed group"),
        (grammar("start: start"), "grammar: after 0 tokens of output no token can follow"),
    ],
)
def test_wrong_is_what_fails_on_every_way(guides: LlguidanceGuides, spec: GuideSpec, says: str) -> None:
    assert verdict(guides, spec, TrialLimits(num_ways=8)) == says


def test_a_way_ends_with_the_text_or_the_bound(guides: LlguidanceGuides) -> None:
    finite, endless = guides.start(regex("abc")), guides.start(regex("(?s:.)+"))

    assert follow(finite, way=0, num_tokens=10) == ""
    assert finite.is_complete
    assert follow(endless, way=0, num_tokens=10) == ""
    assert not endless.is_complete


def test_ways_differ_and_each_is_always_the_same(guides: LlguidanceGuides) -> None:
    def mask_after(way: int) -> bytes:
        guide = guides.start(regex("[a-m]{9}|[n-z]{7}"))
        follow(guide, way, num_tokens=1)
        return guide.allowed()

    assert len({mask_after(way) for way in range(8)}) > 1
    assert mask_after(3) == mask_after(3)

"""Compiles specs into guides, keeps what it compiled, and tries what a stranger sent before it may cost an engine.

`check` belongs where requests come in, `start` where they run; each process has a maker of its own. Knows no scheduler.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from threading import Lock

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from predictor.llm.guide import Guide, GuideSpec
from predictor.llm.guides.grammar import grammar_text, refuse
from predictor.llm.guides.matching import MatcherGuide
from predictor.llm.guides.trial import Trial, TrialLimits
from predictor.llm.guides.vocabulary import GuideVocabulary, build_llguidance_tokenizer

# What one mask may cost: half of llguidance's defaults and less, since a step of the engine waits for it. A grammar of
# great ambiguity takes up to 55 ms a token with these, and 380 ms with the defaults.
_LIMITS = LLParserLimits(
    max_items_in_row=1000,  # an object with 240 optional properties
    step_max_items=20_000,
    step_lexer_fuel=100_000,
    max_lexer_states=20_000,  # 1 to 2 kB each
    verbose_errors=False,  # a complaint quotes neither the grammar nor the output
)


class LlguidanceGuides:
    """Implements predictor.llm.guide.GuideMaker. Safe to use from several threads."""

    def __init__(
        self, vocabulary: GuideVocabulary, *, max_compiled: int = 16, trial_limits: TrialLimits | None = None
    ) -> None:
        """max_compiled: grammars that are kept for the next guide of the same spec."""
        self._vocabulary = vocabulary
        self._compiled: OrderedDict[GuideSpec, LLMatcher] = OrderedDict()
        self._max_compiled = max_compiled
        self._lock = Lock()
        self._trial = Trial(vocabulary, trial_limits or TrialLimits())

    def warm_up(self) -> None:
        """Build what the first `start` would otherwise wait for. `check` needs none of it in this process."""
        _ = self._tokenizer

    def check(self, spec: GuideSpec, /) -> None:
        """Raise InvalidInput when no guide of `spec` can be made, or none that leads anywhere. Blocks: for a thread.

        Compiles `spec` in another process, since llguidance may overflow its stack or not end (trial.py), and follows
        it for some tokens. Raises Overloaded when too many wait for that, and Unavailable when no process can be had.
        """
        grammar_text(spec)  # what can be refused without a process is
        self._trial.check(spec)

    def start(self, spec: GuideSpec, /) -> Guide:
        """As GuideMaker.start. Only for specs that `check` has passed: others may end this process."""
        with self._lock:
            matcher = self._compiled.get(spec)
            if matcher is None:
                matcher = self._compiled[spec] = self._compile(spec)
            self._compiled.move_to_end(spec)
            while len(self._compiled) > self._max_compiled:
                self._compiled.popitem(last=False)
        return MatcherGuide(spec.kind.value, self._vocabulary, matcher.deep_copy(), lambda: self._renew(spec))

    def close(self) -> None:
        """End the process of `check`, if there is one."""
        self._trial.close()

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        return build_llguidance_tokenizer(self._vocabulary)

    def _compile(self, spec: GuideSpec) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, grammar_text(spec), log_level=0, limits=_LIMITS)
        if matcher.is_error():
            refuse(spec, matcher.get_error())
        return matcher

    def _renew(self, spec: GuideSpec) -> LLMatcher:
        with self._lock:
            self._compiled.pop(spec, None)  # the next guide of `spec` shall not begin with a worn-out one
        return self._compile(spec)

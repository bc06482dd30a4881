"""Explains the answer to a prompt: its words are the players, the answer's log-probability is the value.

The answer is the caller's, or the model's own greedy one. Knows no gRPC; asks through PredictFn.
"""

from __future__ import annotations

import numpy as np

from explainer.methods.game import Attributions, Coalitions, Method, Options, Values
from explainer.predict_fn import PredictFn, Target
from explainer.words import Segment, WordPrompt
from mesh.errors import InvalidInput
from mesh.v1 import explain_pb2

MAX_WORDS = 512
MAX_PROMPT_CHARS = 1_000_000
MAX_ANSWER_TOKENS = 512
DEFAULT_ANSWER_TOKENS = 32
# Scores of one explanation: a prompt of the most words left out one by one, and as many again for methods that sample.
MAX_SCORES = 2048


class TextGame:
    """Implements explainer.methods.game.Game for one prompt and one answer."""

    def __init__(self, prompt: WordPrompt, target: Target, predict_fn: PredictFn) -> None:
        self._prompt = prompt
        self._target = target
        self._predict_fn = predict_fn

    @property
    def num_players(self) -> int:
        return len(self._prompt.words)

    async def values(self, coalitions: Coalitions) -> Values:
        """Log-probability of the answer after each variant of the prompt: [C, 1]."""
        prompts = (self._prompt.with_words(coalition.tolist()) for coalition in coalitions)
        return (await self._predict_fn.score(prompts, self._target))[:, np.newaxis]


async def explain_text(
    subject: explain_pb2.TextSubject, method: Method, predict_fn: PredictFn, seed: int
) -> explain_pb2.Explanation:
    """Raises InvalidInput for a prompt that cannot be explained, and what the method and the predictor raise."""
    prompt = read_prompt(subject)
    target = await _target(subject, prompt, predict_fn)
    options = Options(seed=seed, max_coalitions=MAX_SCORES)
    attributions = await method.attribute(TextGame(prompt, target, predict_fn), options)
    return _explanation(prompt, target, attributions)


def read_prompt(subject: explain_pb2.TextSubject) -> WordPrompt:
    """The prompt of a request. Raises InvalidInput when there is none, no word in it, or too many."""
    kind = subject.WhichOneof("prompt")
    if kind == "messages":
        raise InvalidInput(
            "messages reach the explainer only through a transformer with a chat_template step; "
            "send a text, or deploy the model with that step",
            field="text.messages",
        )
    if kind is None:
        raise InvalidInput("text has no prompt; set text, messages or rendered", field="text")
    if kind == "text":
        segments = [Segment(subject.text, explainable=True)]
    else:
        segments = [Segment(segment.text, segment.explainable) for segment in subject.rendered.segments]
    num_chars = sum(len(segment.text) for segment in segments)
    if num_chars > MAX_PROMPT_CHARS:
        raise InvalidInput(
            f"the prompt has {num_chars} characters; an explanation takes at most {MAX_PROMPT_CHARS}", field="text"
        )
    prompt = WordPrompt(segments)
    if not prompt.words:
        raise InvalidInput("the prompt has no word that can be left out, so nothing can be explained", field="text")
    if len(prompt.words) > MAX_WORDS:
        raise InvalidInput(
            f"the prompt has {len(prompt.words)} words that can be left out; an explanation takes at most {MAX_WORDS}",
            field="text",
        )
    return prompt


async def _target(subject: explain_pb2.TextSubject, prompt: WordPrompt, predict_fn: PredictFn) -> Target:
    if subject.target:
        return Target(subject.target)
    max_tokens = subject.max_tokens if subject.HasField("max_tokens") else DEFAULT_ANSWER_TOKENS
    if not 1 <= max_tokens <= MAX_ANSWER_TOKENS:
        raise InvalidInput(f"max_tokens is {max_tokens}; it must be 1..{MAX_ANSWER_TOKENS}", field="text.max_tokens")
    target = await predict_fn.greedy_answer(prompt.text, max_tokens)
    if not target.token_ids:
        raise InvalidInput(
            "the model's own answer to this prompt is empty; give the answer to explain as target", field="text.target"
        )
    return target


def _explanation(prompt: WordPrompt, target: Target, attributions: Attributions) -> explain_pb2.Explanation:
    explanation = explain_pb2.Explanation(
        attributions=[
            explain_pb2.Attribution(name=word.text, value=value, start=word.start, length=word.length)
            for word, value in zip(prompt.words, attributions.contributions[0].tolist(), strict=True)
        ],
        target=target.text,
        score=attributions.score[0],
        rendered_prompt=prompt.text,
    )
    if attributions.base_score is not None:
        explanation.base_score = attributions.base_score[0]
    return explanation

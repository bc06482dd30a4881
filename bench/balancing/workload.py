"""Who asks what, and when: a trace of requests, made of a seed before the run, so that every policy gets the same.

Conversations begin as a Poisson process. Each starts with a shared text (a system prompt, chosen by Zipf's law) and
grows by what was asked and answered; its next turn comes a while after the one before, whether or not that was answered
(an open loop: a slow server gets no rest). Tokens are counted, never written out: a block of a prompt is known by whose
text it is, and where it ends.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from mesh.balancing import Request
from mesh.balancing.prefix import BLOCK_ENDS

# Of an engine's prefix cache.
BLOCK_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Workload:
    """What the prompts are like.

    num_shared: shared texts; 0: every conversation starts with a text of its own. zipf: exponent of their popularity.
    hot_share: share of conversations that start with the most popular one, whatever Zipf says. Lengths are means, in
    tokens: of a first text (half to one and a half times as long), and of what a turn asks and answers (exponential).
    turns: of a conversation (geometric), pause_s apart (exponential).
    """

    name: str
    num_shared: int = 200
    zipf: float = 1.0
    hot_share: float = 0.0
    first_tokens: int = 1000
    asked_tokens: int = 150
    answer_tokens: int = 150
    turns: float = 4.0
    pause_s: float = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One request of the trace.

    blocks: the prompt's full ones, as an engine's cache knows them; blocks_after: and the answer's. hint: what a policy
    is told; it does not know the length of the answer, only the mean.
    """

    number: int
    at_s: float
    gateway: int
    num_tokens: int
    answer_tokens: int
    blocks: tuple[int, ...]
    blocks_after: tuple[int, ...]
    hint: Request


@dataclass(slots=True)
class _Turn:
    at_s: float
    conversation: int
    first_text: int
    first_tokens: int
    num_tokens: int
    answer_tokens: int

    def block(self, end: int) -> int:
        """The block that ends at token `end`: of the first text as long as that lasts, then of the conversation."""
        if end <= self.first_tokens:
            return (self.first_text << 24 | end) << 1
        return (self.conversation << 24 | end) << 1 | 1


def trace(workload: Workload, *, rate: float, count: int, gateways: int, seed: int) -> list[Prompt]:
    """`count` requests in order of time, `rate` a second; each turn comes by any of the gateways."""
    rng = random.Random(seed)
    turns = sorted(_turns(workload, rate, count / rate * 1.1 + 10, rng), key=lambda turn: turn.at_s)
    return [_prompt(number, turn, workload, rng.randrange(gateways)) for number, turn in enumerate(turns[:count])]


def mean_tokens(workload: Workload) -> tuple[float, float]:
    """Mean tokens of a prompt and of an answer: turn k has k times what is asked, and k - 1 answers before it."""
    turn = workload.turns  # the mean over requests of a geometric number's position is that of the number itself
    prompt = workload.first_tokens + turn * workload.asked_tokens + (turn - 1) * workload.answer_tokens
    return prompt, float(workload.answer_tokens)


def _turns(workload: Workload, rate: float, until_s: float, rng: random.Random) -> Iterator[_Turn]:
    popularity = list(accumulate((rank + 1) ** -workload.zipf for rank in range(workload.num_shared)))
    lengths = [int(workload.first_tokens * rng.uniform(0.5, 1.5)) for _ in popularity]
    # Conversations that began before the trace, too: otherwise it would start with first turns only.
    begin_s, conversation = -5 * workload.pause_s * workload.turns, 0
    while begin_s < until_s:
        begin_s += rng.expovariate(rate / workload.turns)
        conversation += 1
        if workload.num_shared:
            is_hot = rng.random() < workload.hot_share
            text = 0 if is_hot else bisect(popularity, rng.random() * popularity[-1])
            first_tokens = lengths[text]
        else:
            text, first_tokens = 0, 0
        at_s = begin_s
        num_tokens = first_tokens or int(workload.first_tokens * rng.uniform(0.5, 1.5))
        while True:
            num_tokens += 1 + int(rng.expovariate(1 / workload.asked_tokens))
            answer_tokens = 1 + int(rng.expovariate(1 / workload.answer_tokens))
            if at_s >= 0:
                yield _Turn(at_s, conversation, text, first_tokens, num_tokens, answer_tokens)
            num_tokens += answer_tokens
            if rng.random() < 1 / workload.turns:
                break
            at_s += rng.expovariate(1 / workload.pause_s)


def _prompt(number: int, turn: _Turn, workload: Workload, gateway: int) -> Prompt:
    after = turn.num_tokens + turn.answer_tokens
    blocks = tuple(turn.block(end) for end in range(BLOCK_TOKENS, after + 1, BLOCK_TOKENS))
    ends = BLOCK_ENDS[: bisect(BLOCK_ENDS, turn.num_tokens)]
    return Prompt(
        number=number,
        at_s=turn.at_s,
        gateway=gateway,
        num_tokens=turn.num_tokens,
        answer_tokens=turn.answer_tokens,
        blocks=blocks[: turn.num_tokens // BLOCK_TOKENS],
        blocks_after=blocks,
        hint=Request(
            prefix=[_spread(turn.block(end)) for end in ends],
            key=str(turn.conversation),
            cost=float(turn.num_tokens + workload.answer_tokens),
        ),
    )


def _spread(value: int) -> int:
    """As evenly over 64 bits as a real hash: the finalizer of SplitMix64 (Steele, Lea, Flood, 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 31

"""One engine step as plain data: what the scheduler plans, and what a backend answers.

A `StepPlan` can be printed, recorded and replayed: it holds everything that a backend needs and nothing that it
could reach through. Nothing here knows torch. The shape follows vLLM's SchedulerOutput: one flat list of chunks, with
no separate prefill and decode phases.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token of a sequence is chosen. Values are checked by `predictor.llm.limits`.

    temperature: 0 means greedy; then top_k, top_p, min_p and seed do not matter.
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: keep the smallest set whose probability is at least top_p; 1 keeps all.
    min_p: drop tokens less likely than min_p times the likeliest; 0 keeps all.
    seed: 64-bit; the noise for a token depends on (seed, position) alone, so a sequence that is preempted, moved or
        batched with others draws the same tokens.
    num_logprobs: how many of the likeliest tokens to report beside the chosen one; -1 reports no logprobs at all.
    repetition_penalty: divides the logit, if positive, of each token that prompt or output has, else multiplies it
        (Keskar et al., 2019, CTRL); 1 changes nothing.
    frequency_penalty: times the count of a token in the output, subtracted from its logit.
    presence_penalty: subtracted from the logit of each token that the output has.
    logit_bias: (token id, what is added to its logit), by id.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    num_logprobs: int = -1
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def has_penalties(self) -> bool:
        """Whether the choice depends on the tokens so far other than through the model."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


@dataclass(frozen=True, slots=True)
class Draw:
    """The choice of one token: by which parameters, and from which tokens.

    params: its seed is the output's own.
    prompt_token_ids, output_token_ids: the tokens so far, when penalties need them; else empty.
    banned: tokens that must not be chosen here.
    allowed: bitmap of the tokens that a guide allows, bit i % 8 of byte i // 8 for token i; None allows all. When every
        allowed token is banned, the guide wins.
    """

    params: SamplingParams
    prompt_token_ids: tuple[int, ...] = ()
    output_token_ids: tuple[int, ...] = ()
    banned: tuple[int, ...] = ()
    allowed: bytes | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of one sequence that one step computes.

    token_ids: the tokens to run, at positions start_position, start_position + 1, …
    block_table: ids of the KV blocks of the sequence, in order; covers start_position + len(token_ids) tokens.
    draws: how to choose the token after each of the last len(draws) tokens of this chunk; empty while the prompt is
        incomplete. One draw is the plain case. With more, all of these tokens but the first are a draft: a guess at
        what the draws before them choose, so that one step may choose several tokens (`num_accepted`).
    score_targets: the tokens that follow each token of the chunk, one per token, when their log-probabilities are
        wanted (prompt scoring); empty otherwise. -1 marks a position that is not wanted.
    num_score_logprobs: how many of the likeliest tokens to report beside each score target.
    """

    sequence_id: int
    token_ids: tuple[int, ...]
    start_position: int
    block_table: tuple[int, ...]
    draws: tuple[Draw, ...] = ()
    score_targets: tuple[int, ...] = ()
    num_score_logprobs: int = 0

    @property
    def context_len(self) -> int:
        """Tokens of the sequence whose keys and values are in the cache after this step."""
        return self.start_position + len(self.token_ids)

    @property
    def draft(self) -> tuple[int, ...]:
        """The guessed tokens at the end of token_ids, one for each draw but the last."""
        return self.token_ids[len(self.token_ids) - len(self.draws) + 1 :] if self.draws else ()

    def num_accepted(self, chosen: Seq[int]) -> int:
        """How many tokens of the draft, from its start, are what the draws chose; `chosen` has one token per draw.

        A choice hangs on the tokens before its position and on its draw. So chosen[i] is what a step without a draft
        would have chosen, exactly if all of the draft before it is: the accepted ones and one more are good.
        """
        pairs = enumerate(zip(self.draft, chosen, strict=False))
        return next((i for i, (guess, choice) in pairs if guess != choice), len(self.draft))


@dataclass(frozen=True, slots=True)
class StepPlan:
    """All chunks of one step, in the order in which the backend computes them."""

    step_id: int
    chunks: tuple[Chunk, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.token_ids) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probability of one token, and the likeliest tokens with theirs, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a step found out for one chunk.

    token_ids: the chosen tokens, one for each draw of the chunk, whatever its draft says.
    logprobs: of the chosen tokens, from the distribution before temperature and truncation; empty unless asked for.
    scores: log-probabilities of the wanted score_targets, one per entry that is not -1.
    """

    sequence_id: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    scores: tuple[TokenLogprobs, ...] = ()

"""A model whose next token is a hash of the tokens that it reads back from its KV slots.

It implements the backend's port and touches memory just as attention does: all writes of a step, then reads through
the block tables. Whatever the engine does wrong with a block changes the output, and `continuation` says what the
output has to be.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

from mesh.errors import CorruptArtifact
from predictor.llm.factory import EngineModel, ModelFacts
from predictor.llm.settings import EngineSettings
from predictor.llm.step import Chunk, ChunkResult, SamplingParams, StepPlan, TokenLogprobs

VOCAB_SIZE = 300  # the 256 bytes, then special tokens without text
EOS_ID = 299
HANG_ID = 298  # a step that runs this token never ends
FAIL_ID = 297  # a step that runs this token raises
DIE_ID = 296  # a step that runs this token ends the process
MAX_CONTEXT_TOKENS = 4096


class HashVocabulary:
    """Tokens below 256 are bytes; the others are special."""

    eos_ids = frozenset({EOS_ID})
    vocab_size = VOCAB_SIZE

    def id_to_bytes(self, token_id: int, /) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        return list(text.encode())


class HashBackend:
    """`slots[block][offset]` holds (position, token); `plan` is the last one executed."""

    def __init__(self) -> None:
        self.slots: list[list[tuple[int, int] | None]] = []
        self.block_size = 0
        self.plan = StepPlan(-1, ())

    def block_bytes(self, block_size: int) -> int:
        return 1024 * block_size

    def allocate(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.slots = [[None] * block_size for _ in range(num_blocks)]

    def warm_up(self) -> None:
        pass

    def execute(self, plan: StepPlan) -> list[ChunkResult]:
        self.plan = plan
        for chunk in plan.chunks:
            _misbehave_if_asked(chunk)
            for position, token_id in enumerate(chunk.token_ids, start=chunk.start_position):
                self._block(chunk, position)[position % self.block_size] = (position, token_id)
        return [self._result(chunk) for chunk in plan.chunks]

    def close(self) -> None:
        self.slots = []

    def _block(self, chunk: Chunk, position: int) -> list[tuple[int, int] | None]:
        return self.slots[chunk.block_table[position // self.block_size]]

    def _result(self, chunk: Chunk) -> ChunkResult:
        context = [self._read(chunk, position) for position in range(chunk.context_len)]
        score = tuple(
            score_of(context[: position + 1], target)
            for position, target in enumerate(chunk.score_targets, start=chunk.start_position)
            if target >= 0
        )
        if chunk.sample is None:
            return ChunkResult(chunk.sequence_id, None, score=score)
        token_id = next_token(context, chunk.sample)
        logprobs = TokenLogprobs(score_of(context, token_id)) if chunk.sample.num_logprobs >= 0 else None
        return ChunkResult(chunk.sequence_id, token_id, logprobs, score)

    def _read(self, chunk: Chunk, position: int) -> int:
        slot = self._block(chunk, position)[position % self.block_size]
        assert slot is not None, f"sequence {chunk.sequence_id} reads position {position}, which nobody wrote"
        assert slot[0] == position, f"sequence {chunk.sequence_id} finds position {slot[0]} at {position}"
        return slot[1]


def next_token(context: Sequence[int], sampling: SamplingParams) -> int:
    """Mostly a byte, often one of "abc", sometimes the end of text."""
    value = _hash(context, 0 if sampling.temperature == 0 else sampling.seed)
    if value % 3 == 0:
        return 97 + value // 3 % 3
    return EOS_ID if value % 50 == 1 else value // 3 % 256


def score_of(context: Sequence[int], target: int) -> float:
    return -(_hash(context, target) % 10_000) / 1000


def continuation(prompt: Sequence[int], num_tokens: int, sampling: SamplingParams) -> list[int]:
    """The tokens that follow `prompt`, the slow and obvious way."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(next_token(tokens, sampling))
    return tokens[len(prompt) :]


def scores(prefix: Sequence[int], targets: Sequence[int]) -> list[float]:
    return [score_of([*prefix, *targets[:index]], target) for index, target in enumerate(targets)]


def load(path: Path, settings: EngineSettings, progress: Callable[[str, float], None]) -> EngineModel:
    """The factory that an engine process is given. The name of `path` asks for misbehaviour."""
    progress("weights", 0.5)
    if path.name == "corrupt" or path.with_name(f"{path.name}.corrupt").exists():
        raise CorruptArtifact(f"{path.name} is not a model")
    if path.name == "slow":
        time.sleep(600)
    facts = ModelFacts(
        architecture="hash",
        num_layers=1,
        vocab_size=VOCAB_SIZE,
        max_context_tokens=MAX_CONTEXT_TOKENS,
        dtype="int64",
    )
    return EngineModel(HashBackend(), HashVocabulary(), facts)


def read_vocabulary(path: Path) -> HashVocabulary:
    return HashVocabulary()


def _misbehave_if_asked(chunk: Chunk) -> None:
    if HANG_ID in chunk.token_ids:
        time.sleep(600)
    if FAIL_ID in chunk.token_ids:
        raise RuntimeError("a token asked this step to fail")
    if DIE_ID in chunk.token_ids:
        raise SystemExit(3)


def _hash(tokens: Sequence[int], seed: int) -> int:
    digest = blake2b(array("q", tokens).tobytes(), digest_size=8, salt=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")

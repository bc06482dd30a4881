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

from mesh.errors import CorruptArtifact, InvalidInput
from predictor.llm.factory import EngineModel, ModelFacts
from predictor.llm.guide import Guide, GuideKind, GuideSpec
from predictor.llm.settings import EngineSettings
from predictor.llm.step import Chunk, ChunkResult, Draw, SamplingParams, StepPlan, TokenLogprobs

VOCAB_SIZE = 300  # the 256 bytes, then special tokens without text
EOS_ID = 299
HANG_ID = 298  # a step that runs this token never ends
FAIL_ID = 297  # a step that runs this token raises
DIE_ID = 296  # a step that runs this token ends the process
ECHO_ID = 295  # a text that begins with this token mostly goes on as it did where its last token stood before
MAX_CONTEXT_TOKENS = 4096


class HashVocabulary:
    """Tokens below 256 are bytes; the others are special."""

    eos_ids = frozenset({EOS_ID})
    vocab_size = VOCAB_SIZE

    def id_to_bytes(self, token_id: int, /) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        return list(text.encode())


class StrideGuide:
    """Allows a byte when it and the sum of the bytes before leave a given rest; complete after so many of them.

    Token FAIL_ID, which the hash model never says, breaks it: so does a real library that gives up on a grammar.
    """

    def __init__(self, stride: int, num_tokens: int, fails_after: int) -> None:
        self._stride = stride
        self._num_left = num_tokens
        self._num_until_failure = fails_after
        self._sum = 0

    @property
    def is_complete(self) -> bool:
        return self._num_left == 0

    def allowed(self) -> bytes:
        if self._num_until_failure == 0:
            raise InvalidInput("the guide gives up", field="guide")
        bits = [token_id < 256 and (token_id + self._sum) % self._stride == 0 for token_id in range(VOCAB_SIZE)]
        bits[EOS_ID] = self.is_complete
        return bytes(sum(bit << i for i, bit in enumerate(bits[k : k + 8])) for k in range(0, len(bits), 8))

    def accept(self, token_id: int, /) -> None:
        assert self.allowed()[token_id // 8] >> token_id % 8 & 1, f"token {token_id} is not allowed"
        self._sum += token_id
        self._num_left = max(0, self._num_left - 1)
        self._num_until_failure -= 1


class StrideGuides:
    """A GuideMaker whose regular expressions are "stride num_tokens", with a third number to fail after so many."""

    def start(self, spec: GuideSpec, /) -> Guide:
        if spec.kind is not GuideKind.REGEX:
            raise InvalidInput(f"{spec.kind.value} is not known here", field="guide")
        stride, num_tokens, fails_after = [*map(int, spec.source.split()), -1][:3]
        return StrideGuide(stride, num_tokens, fails_after)


class HashBackend:
    """`slots[block][offset]` holds (position, token); `plan` is the last one executed, with its `results`.

    step_s: how long a step takes at least.
    """

    def __init__(self, step_s: float = 0.0) -> None:
        self._step_s = step_s
        self.slots: list[list[tuple[int, int] | None]] = []
        self.block_size = 0
        self.plan = StepPlan(-1, ())
        self.results: list[ChunkResult] = []

    def block_bytes(self, block_size: int) -> int:
        return 1024 * block_size

    def allocate(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.slots = [[None] * block_size for _ in range(num_blocks)]

    def warm_up(self) -> None:
        pass

    def execute(self, plan: StepPlan) -> list[ChunkResult]:
        time.sleep(self._step_s)
        self.plan = plan
        for chunk in plan.chunks:
            _misbehave_if_asked(chunk)
            for position, token_id in enumerate(chunk.token_ids, start=chunk.start_position):
                self._block(chunk, position)[position % self.block_size] = (position, token_id)
        self.results = [self._result(chunk) for chunk in plan.chunks]
        return self.results

    def close(self) -> None:
        self.slots = []

    def _block(self, chunk: Chunk, position: int) -> list[tuple[int, int] | None]:
        return self.slots[chunk.block_table[position // self.block_size]]

    def _result(self, chunk: Chunk) -> ChunkResult:
        context = [self._read(chunk, position) for position in range(chunk.context_len)]
        scored = tuple(
            TokenLogprobs(target, score_of(context[: position + 1], target))
            for position, target in enumerate(chunk.score_targets, start=chunk.start_position)
            if target >= 0
        )
        first = chunk.context_len - len(chunk.draws) + 1
        contexts = [context[:length] for length in range(first, chunk.context_len + 1)]
        token_ids = tuple(next_token(before, draw) for before, draw in zip(contexts, chunk.draws, strict=True))
        logprobs: tuple[TokenLogprobs, ...] = ()
        if chunk.draws and chunk.draws[0].params.num_logprobs >= 0:
            pairs = zip(contexts, token_ids, strict=True)
            logprobs = tuple(TokenLogprobs(token_id, score_of(before, token_id)) for before, token_id in pairs)
        return ChunkResult(chunk.sequence_id, token_ids, logprobs, scored)

    def _read(self, chunk: Chunk, position: int) -> int:
        slot = self._block(chunk, position)[position % self.block_size]
        assert slot is not None, f"sequence {chunk.sequence_id} reads position {position}, which nobody wrote"
        assert slot[0] == position, f"sequence {chunk.sequence_id} finds position {slot[0]} at {position}"
        return slot[1]


def next_token(context: Sequence[int], draw: Draw) -> int:
    """Mostly a byte, often one of "abc", sometimes the end of text; of those that are not banned and are allowed."""
    sampling = draw.params
    value = _hash([*context, *_traits(draw)], 0 if sampling.temperature == 0 else sampling.seed)
    if context[0] == ECHO_ID and value % 8 and context[-1] in context[1:-1]:
        wish = context[len(context) - list(reversed(context))[1:].index(context[-1]) - 1]
    elif value % 3 == 0:
        wish = 97 + value // 3 % 3
    else:
        wish = EOS_ID if value % 50 == 1 else value // 3 % 256
    candidates = [(wish + step) % VOCAB_SIZE for step in range(VOCAB_SIZE)]
    return next(token_id for token_id in candidates if token_id not in draw.banned and _is_allowed(draw, token_id))


def _traits(draw: Draw) -> list[int]:
    """What a penalty sees moves the choice too: a history that is not the true one changes the output."""
    return [*draw.prompt_token_ids, -1, *draw.output_token_ids] if draw.params.has_penalties else []


def _is_allowed(draw: Draw, token_id: int) -> bool:
    if draw.allowed is None:
        return not EOS_ID > token_id >= 256  # the other special tokens misbehave; a model does not say them
    return token_id // 8 < len(draw.allowed) and bool(draw.allowed[token_id // 8] >> token_id % 8 & 1)


def score_of(context: Sequence[int], target: int) -> float:
    return -(_hash(context, target) % 10_000) / 1000


def continuation(
    prompt: Sequence[int],
    num_tokens: int,
    sampling: SamplingParams,
    *,
    min_tokens: int = 0,
    guide: Guide | None = None,
) -> list[int]:
    """The tokens that follow `prompt`, the slow and obvious way; until the guide is complete, if there is one."""
    output: list[int] = []
    while len(output) < num_tokens and not (guide is not None and guide.is_complete):
        history = (tuple(prompt), tuple(output)) if sampling.has_penalties else ((), ())
        banned = (EOS_ID,) if len(output) < min_tokens else ()
        allowed = None if guide is None else guide.allowed()
        output.append(next_token([*prompt, *output], Draw(sampling, *history, banned, allowed)))
        if guide is not None:
            guide.accept(output[-1])
    return output


def scores(prefix: Sequence[int], targets: Sequence[int]) -> list[float]:
    return [score_of([*prefix, *targets[:index]], target) for index, target in enumerate(targets)]


def load(path: Path, settings: EngineSettings, progress: Callable[[str, float], None]) -> EngineModel:
    """The factory that an engine process is given. The name of `path` asks for misbehaviour, and the file for slowness:
    it holds the least duration of a step, in seconds.
    """
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
    step_s = float(path.read_text() or 0) if path.is_file() else 0.0
    return EngineModel(HashBackend(step_s), HashVocabulary(), facts, guides=StrideGuides())


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

"""Small engines around the hash model, and requests for them."""

from __future__ import annotations

from predictor.llm.block_pool import BlockPool
from predictor.llm.engine import Engine
from predictor.llm.guide import GuideSpec
from predictor.llm.limits import EngineLimits
from predictor.llm.outputs import EngineOutput, FailedOutput, GenerationOutput, ScoreOutput
from predictor.llm.scheduler import Scheduler
from predictor.llm.sequence import GenerationRequest, ScoreRequest
from predictor.llm.settings import EngineSettings
from predictor.llm.step import SamplingParams
from tests.predictor.llm.hash_model import VOCAB_SIZE, HashBackend, HashVocabulary, StrideGuides


class SmallEngine:
    """An engine over `num_blocks` blocks of 4 tokens, whose outputs are kept and joined by request."""

    def __init__(
        self,
        num_blocks: int = 32,
        *,
        block_size: int = 4,
        max_num_seqs: int = 4,
        max_num_batched_tokens: int = 16,
        max_num_waiting: int = 100,
        max_num_waiting_tokens: int = 10_000,
        enable_prefix_caching: bool = True,
        speculation: str = "auto",
        num_draft_tokens: int = 7,
        max_num_tokens_with_drafts: int = 16,
    ) -> None:
        self.pool = BlockPool(num_blocks, block_size, enable_prefix_caching=enable_prefix_caching)
        self.settings = EngineSettings(
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_waiting=max_num_waiting,
            max_num_waiting_tokens=max_num_waiting_tokens,
            speculation=speculation,
            num_draft_tokens=num_draft_tokens,
            max_num_tokens_with_drafts=max_num_tokens_with_drafts,
        )
        self.backend = HashBackend()
        self.backend.allocate(num_blocks, block_size)
        self.scheduler = Scheduler(self.pool, self.settings)
        self.time = 0.0
        limits = EngineLimits(VOCAB_SIZE, num_blocks * block_size, self.settings.max_num_requests)
        self.engine = Engine(
            self.backend, self.scheduler, HashVocabulary(), limits, StrideGuides(), now=lambda: self.time
        )
        self.outputs: dict[tuple[str, int], GenerationOutput] = {}  # by request and index
        self.scores: dict[str, ScoreOutput] = {}
        self.failures: dict[str, FailedOutput] = {}

    def add(self, request: GenerationRequest | ScoreRequest) -> None:
        output = self.engine.add(request)
        if output is not None:
            self.keep(output)

    def step(self) -> None:
        self.time += 1.0
        for output in self.engine.step():
            self.keep(output)

    def run(self, max_steps: int = 10_000) -> None:
        for _ in range(max_steps):
            if not self.engine.has_work:
                return
            self.step()
        raise AssertionError(f"requests are still running after {max_steps} steps")

    def keep(self, output: EngineOutput) -> None:
        if isinstance(output, GenerationOutput):
            key = (output.request_id, output.index)
            before = self.outputs.get(key)
            assert before is None or before.finish_reason is None, "an output came after the last one"
            self.outputs[key] = output if before is None else before.followed_by(output)
        elif isinstance(output, ScoreOutput):
            assert output.request_id not in self.scores
            self.scores[output.request_id] = output
        else:
            self.failures[output.request_id] = output

    @property
    def generations(self) -> dict[str, GenerationOutput]:
        """The first output of each request."""
        return {request_id: output for (request_id, index), output in self.outputs.items() if index == 0}

    @property
    def is_empty(self) -> bool:
        self.pool.check_invariants()
        return self.pool.num_free_blocks == self.pool.num_blocks and not self.engine.has_work


GREEDY = SamplingParams(temperature=0.0)


def generation(
    request_id: str = "a",
    prompt: tuple[int, ...] = (1, 2, 3),
    max_tokens: int = 8,
    *,
    sampling: SamplingParams = GREEDY,
    stop: tuple[str, ...] = (),
    stop_token_ids: tuple[int, ...] = (),
    ignore_eos: bool = True,
    min_tokens: int = 0,
    bad_words: tuple[tuple[int, ...], ...] = (),
    guide: GuideSpec | None = None,
    n: int = 1,
    sample_index: int = 0,
    num_prompt_logprobs: int = -1,
    continue_from: tuple[int, ...] = (),
    priority: int = 0,
    cache_salt: str = "",
    adapter: str = "",
) -> GenerationRequest:
    return GenerationRequest(
        request_id,
        prompt,
        sampling,
        max_tokens,
        stop=stop,
        stop_token_ids=stop_token_ids,
        ignore_eos=ignore_eos,
        min_tokens=min_tokens,
        bad_words=bad_words,
        guide=guide,
        n=n,
        sample_index=sample_index,
        num_prompt_logprobs=num_prompt_logprobs,
        continue_from=continue_from,
        priority=priority,
        cache_salt=cache_salt,
        adapter=adapter,
    )

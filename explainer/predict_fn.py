"""Asks the predictor, in few batched calls of low priority: the one place of the explainer that knows its stubs.

One object serves one explanation, and counts what it cost. Nothing here knows what is explained, or how.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from mesh import context
from mesh.balancing import ANY, Request
from mesh.errors import Internal
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.pool import EndpointPool
from mesh.request_hints import generation_hint, scoring_hint
from mesh.tensors import Array, Tensor, decode_response, encode_request
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR

# Below every request of a user; the scheduler runs these when nothing else waits.
PRIORITY = -10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of one call to the predictor."""

    max_rows: int = 4096
    max_prompts: int = 256
    max_prompt_bytes: int = 16 << 20
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Target:
    """A continuation to score: its tokens when they are known, its text otherwise."""

    text: str
    token_ids: tuple[int, ...] = ()


class PredictFn:
    """The predictor's answers for one model. Raises MeshError: what the pool and the predictor raise."""

    def __init__(self, pool: EndpointPool, model_name: str, model_version: str, limits: BatchLimits) -> None:
        self.num_calls = 0
        self.model_version = model_version  # that of the model that answers, once one did
        self._pool = pool
        self._model_name = model_name
        self._requested_version = model_version
        self._limits = limits

    async def config(self) -> oip.ModelConfig:
        """The model's configuration."""
        request = oip.ModelConfigRequest(name=self._model_name, version=self._requested_version)
        response = await self._ask(
            lambda channel: GRPCInferenceServiceStub(channel).ModelConfig(request, timeout=self._timeout_s())
        )
        return response.config

    async def infer(self, name: str, datatype: str, rows: Array, max_rows: int = 0) -> dict[str, Array]:
        """The model's outputs for an input of shape [N, features], N > 0; each output has N rows.

        max_rows: the model's own limit of a batch; 0: none.
        """
        step = min(self._limits.max_rows, max_rows or self._limits.max_rows)
        parts = [await self._infer_once(name, datatype, rows[i : i + step]) for i in range(0, len(rows), step)]
        return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}

    async def score(self, prompts: Iterable[str], target: Target) -> NDArray[np.float64]:
        """Total log-probability of the target after each prompt: [N]. Prompts are taken as they are sent, in order."""
        scores: list[float] = []
        for part in self._in_parts(prompts):
            request = lm.ScoreRequest(
                model_name=self._model_name, model_version=self._requested_version, priority=PRIORITY
            )
            for prompt in part:
                item = request.items.add(text=prompt)
                if target.token_ids:
                    item.target_token_ids.ids.extend(target.token_ids)
                else:
                    item.target_text = target.text
            scores.extend(await self._score_once(request))
        return np.array(scores)

    async def greedy_answer(self, prompt: str, max_tokens: int) -> Target:
        """The model's own likeliest continuation, without what ends it; empty when it ends at once."""
        request = lm.GenerateRequest(
            model_name=self._model_name,
            model_version=self._requested_version,
            text=prompt,
            sampling=lm.SamplingParameters(temperature=0, max_tokens=max_tokens),
            priority=PRIORITY,
        )
        self.num_calls += 1
        responses = self._pool.stream(
            SERVICE_KIND_PREDICTOR,
            self._model_name,
            lambda channel: LanguageModelStub(channel).Generate(request, timeout=self._timeout_s()),
            request=generation_hint(request),
            version=self._requested_version,
        )
        text, token_ids, finish_reason = "", list[int](), lm.FINISH_REASON_UNSPECIFIED
        async with aclosing(responses):
            async for response in responses:
                text += response.text
                token_ids.extend(response.token_ids)
                finish_reason = response.finish_reason or finish_reason
        if finish_reason == lm.FINISH_REASON_STOP:
            # Without stop texts of our own, only an end-of-text token stops; the answer is what stands before it.
            del token_ids[-1:]
        return Target(text, tuple(token_ids))

    async def _infer_once(self, name: str, datatype: str, rows: Array) -> dict[str, Array]:
        request = oip.ModelInferRequest(model_name=self._model_name, model_version=self._requested_version)
        encode_request(request, [Tensor(name, datatype, rows)])
        response = await self._ask(
            lambda channel: GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=self._timeout_s())
        )
        self.model_version = response.model_version or self.model_version
        outputs = {output: tensor.array for output, tensor in decode_response(response).items()}
        for output, array in outputs.items():
            if array.ndim == 0 or len(array) != len(rows):
                raise Internal(
                    f"output '{output}' of '{self._model_name}' has not one row for each of {len(rows)} rows"
                )
        return outputs

    async def _score_once(self, request: lm.ScoreRequest) -> list[float]:
        response = await self._ask(
            lambda channel: LanguageModelStub(channel).Score(request, timeout=self._timeout_s()), scoring_hint(request)
        )
        self.model_version = response.model_version or self.model_version
        if len(response.results) != len(request.items):
            raise Internal(f"'{self._model_name}' scored {len(response.results)} of {len(request.items)} items")
        return [sum(result.logprobs) for result in response.results]

    async def _ask(self, call: Callable[[grpc.aio.Channel], Awaitable[T]], hint: Request = ANY) -> T:
        self.num_calls += 1
        return await self._pool.unary(
            SERVICE_KIND_PREDICTOR, self._model_name, call, version=self._requested_version, request=hint
        )

    def _in_parts(self, prompts: Iterable[str]) -> Iterator[list[str]]:
        part: list[str] = []
        num_bytes = 0
        for prompt in prompts:
            size = len(prompt.encode())
            if part and (len(part) == self._limits.max_prompts or num_bytes + size > self._limits.max_prompt_bytes):
                yield part
                part, num_bytes = [], 0
            part.append(prompt)
            num_bytes += size
        if part:
            yield part

    def _timeout_s(self) -> float | None:
        return context.remaining_s(self._limits.timeout_s)

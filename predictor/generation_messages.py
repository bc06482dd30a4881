"""Generations and scores as mesh.v1 messages, and sampling parameters from them. Pure translation; decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm
from predictor.llm.detokenizer import Detokenizer
from predictor.llm.guide import GuideKind, GuideSpec
from predictor.llm.outputs import GenerationOutput, ScoreOutput
from predictor.llm.sequence import FinishReason, GenerationRequest, ScoreRequest
from predictor.llm.step import TokenLogprobs
from predictor.loader import LoadedModel
from predictor.runtimes.generation import GenerationOptions
from predictor.runtimes.language_model import LanguageModelDescription

TokenBytes = Callable[[int], bytes]

_FINISH_REASONS = {
    FinishReason.STOP: lm.FINISH_REASON_STOP,
    FinishReason.LENGTH: lm.FINISH_REASON_LENGTH,
    FinishReason.ABORT: lm.FINISH_REASON_ABORT,
}


def options_of(sampling: lm.SamplingParameters) -> GenerationOptions:
    """What is set; all else has GenerationOptions' defaults. Names and defaults are the same in both places."""
    given: dict[str, Any] = {  # Any: each field has its own type
        field.name: tuple(value) if field.is_repeated else value for field, value in sampling.ListFields()
    }
    if "logit_bias" in given:
        given["logit_bias"] = tuple(sorted(sampling.logit_bias.items()))
    if "guide" in given:
        given["guide"] = _guide_spec(sampling.guide)
    return GenerationOptions(**given)


def _guide_spec(guide: lm.Guide) -> GuideSpec | None:
    match guide.WhichOneof("kind"):
        case None:
            raise InvalidInput("guide is empty; it takes one of its kinds", field="guide")
        case "json_object":
            return GuideSpec(GuideKind.JSON_OBJECT) if guide.json_object else None
        case "choices":
            return GuideSpec(GuideKind.CHOICES, choices=tuple(guide.choices.texts))
        case kind:
            return GuideSpec(GuideKind(kind), getattr(guide, kind))


def start_message(
    model: LoadedModel, request: GenerationRequest, replica: str, prompt_text: str | None
) -> lm.GenerationStart:
    """prompt_text: the prompt to echo; None when nobody asked for it."""
    return lm.GenerationStart(
        model_name=model.spec.name,
        model_version=model.spec.version,
        model_digest=model.digest,
        seed=request.sampling.seed,
        prompt_tokens=len(request.prompt_token_ids),
        replica=replica,
        prompt_text=prompt_text or "",
        prompt_token_ids=() if prompt_text is None else request.prompt_token_ids,
    )


def repeated_message(
    request: GenerationRequest, start: lm.GenerationStart | None, token_bytes: TokenBytes, *, has_ended: bool
) -> lm.GenerateResponse:
    """What was said of the tokens to go on from. has_ended: they are the whole output, so no text is held back."""
    detokenizer = Detokenizer(token_bytes, request.stop)
    # A stop token has no text, even where its bytes are ordinary text.
    spoken = (token_id for token_id in request.continue_from if token_id not in request.stop_token_ids)
    text = "".join(map(detokenizer.push, spoken))
    if has_ended and detokenizer.matched_stop is None:
        text += detokenizer.flush()
    return lm.GenerateResponse(start=start, text=text, token_ids=request.continue_from, index=request.sample_index)


def output_message(
    output: GenerationOutput, start: lm.GenerationStart | None, token_bytes: TokenBytes
) -> lm.GenerateResponse:
    """`start` goes with the first output; reason, usage and timings with the last about its index."""
    response = lm.GenerateResponse(
        start=start,
        text=output.text,
        token_ids=output.token_ids,
        logprobs=[_position(logprobs, token_bytes) for logprobs in output.logprobs],
        index=output.index,
        prompt_logprobs=[_position(logprobs, token_bytes) for logprobs in output.prompt_logprobs],
        matched_stop=output.matched_stop or "",
    )
    if output.finish_reason is not None:
        response.finish_reason = _FINISH_REASONS[output.finish_reason]
        response.usage.prompt_tokens = output.usage.num_prompt_tokens
        response.usage.cached_tokens = output.usage.num_cached_tokens
        response.usage.output_tokens = output.usage.num_output_tokens
    if output.timings is not None:
        response.timings.queue_s = output.timings.queue_s
        response.timings.first_token_s = output.timings.first_token_s
        response.timings.total_s = output.timings.total_s
    return response


def score_message(
    model: LoadedModel, items: Sequence[ScoreRequest], outputs: Sequence[ScoreOutput]
) -> lm.ScoreResponse:
    return lm.ScoreResponse(
        model_name=model.spec.name,
        model_version=model.spec.version,
        results=[
            lm.ScoreResponse.Result(token_ids=item.target_token_ids, logprobs=output.logprobs)
            for item, output in zip(items, outputs, strict=True)
        ],
        usage=lm.Usage(
            prompt_tokens=sum(len(item.prefix_token_ids) + len(item.target_token_ids) for item in items),
            cached_tokens=sum(output.usage.num_cached_tokens for output in outputs),
        ),
    )


def description_message(model: LoadedModel, description: LanguageModelDescription) -> lm.DescribeModelResponse:
    return lm.DescribeModelResponse(
        model_name=model.spec.name,
        model_version=model.spec.version,
        model_digest=model.digest,
        architecture=description.architecture,
        max_context_tokens=description.max_context_tokens,
        vocab_size=description.vocab_size,
        chat_template=description.chat_template,
        bos_token=description.bos_token,
        eos_token=description.eos_token,
        eos_token_ids=description.eos_token_ids,
    )


def _position(logprobs: TokenLogprobs, token_bytes: TokenBytes) -> lm.PositionLogprobs:
    return lm.PositionLogprobs(
        chosen=_token(logprobs.token_id, logprobs.logprob, token_bytes),
        top=[_token(other, logprob, token_bytes) for other, logprob in logprobs.top],
    )


def _token(token_id: int, logprob: float, token_bytes: TokenBytes) -> lm.TokenLogprob:
    octets = token_bytes(token_id)
    return lm.TokenLogprob(
        token_id=token_id, text=octets.decode("utf-8", errors="replace"), logprob=logprob, token_bytes=octets
    )

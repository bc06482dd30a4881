"""Recorded steps as lines of JSON: a first line that says what they were computed on, then a line for each step.

What is read back is checked as any input is: a plan that is taken over reads and writes only slots that exist. Fields
that have their default are left out of a line, and unknown ones are refused. Floats come back to the bit.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, TextIO, TypeVar

from mesh.errors import InvalidInput
from predictor.llm.limits import check_sampling
from predictor.llm.step import Chunk, ChunkResult, Draw, SamplingParams, StepPlan, TokenLogprobs

FORMAT = "meshserve.steps/2"
MAX_LINE_CHARS = 1 << 25

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RecordingHead:
    """What the steps were computed on. `num_blocks` of `block_size` tokens held the keys and values."""

    architecture: str
    dtype: str
    vocab_size: int
    num_blocks: int
    block_size: int


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """results stand in the order of the plan's chunks."""

    plan: StepPlan
    results: tuple[ChunkResult, ...]


def write_head(head: RecordingHead, out: TextIO) -> None:
    out.write(json.dumps({"format": FORMAT, **dataclasses.asdict(head)}) + "\n")


def write_step(step: RecordedStep, out: TextIO) -> None:
    record = {
        "step_id": step.plan.step_id,
        "chunks": [_encoded(chunk) for chunk in step.plan.chunks],
        "results": [_encoded(result) for result in step.results],
    }
    out.write(json.dumps(record, separators=(",", ":")) + "\n")


def read_steps(lines: TextIO) -> tuple[RecordingHead, Iterator[RecordedStep]]:
    """The head, and the steps as they are asked for. Raises InvalidInput with the number of the line that is wrong."""
    records = _records(lines)
    first = next(records, None)
    if first is None:
        raise InvalidInput("line 1: the recording is empty", field="format")
    head = _located(_head, first[1], first[0])
    return head, (_located(lambda record: _step(record, head), record, number) for number, record in records)


def _records(lines: TextIO) -> Iterator[tuple[int, Any]]:
    for number in count(1):
        try:
            line = lines.readline(MAX_LINE_CHARS + 1)
        except UnicodeDecodeError:
            raise InvalidInput(f"line {number}: is not UTF-8", field="line") from None
        if not line:
            return
        if len(line) > MAX_LINE_CHARS:
            raise InvalidInput(f"line {number}: is longer than {MAX_LINE_CHARS} characters", field="line")
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            raise InvalidInput(f"line {number}: is not JSON", field="line") from None


def _located(decode: Callable[[Any], _T], record: Any, number: int) -> _T:
    try:
        return decode(record)
    except InvalidInput as error:
        raise InvalidInput(f"line {number}: {error.message}", field=error.field) from None


def _encoded(value: Any) -> Any:
    """JSON for a value of predictor.llm.step, without the fields that have their default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _encoded(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != field.default
        }
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple):
        return [_encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


class _Object:
    """A JSON object whose fields are taken one by one; each is checked, and none may be left over."""

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise InvalidInput(f"{path or 'the line'} is no JSON object", field=path)
        self._fields = dict(value)
        self._path = path

    def take(self, name: str, check: Callable[[Any, str], _T], default: _T | None = None) -> _T:
        path = f"{self._path}.{name}" if self._path else name
        if name not in self._fields:
            if default is None:
                raise InvalidInput(f"{path} is missing", field=path)
            return default
        return check(self._fields.pop(name), path)

    def take_optional(self, name: str, check: Callable[[Any, str], _T]) -> _T | None:
        return self.take(name, check) if name in self._fields else None

    def end(self) -> None:
        if self._fields:
            name = min(self._fields)
            raise InvalidInput(f"{self._path or 'the line'} has the unknown field {name[:64]!r}", field=self._path)


def _head(record: Any) -> RecordingHead:
    fields = _Object(record, "")
    if fields.take("format", _text) != FORMAT:
        raise InvalidInput(f"format must be {FORMAT!r}", field="format")
    positive = _integer(1, 2**31 - 1)
    head = RecordingHead(
        architecture=fields.take("architecture", _text),
        dtype=fields.take("dtype", _text),
        vocab_size=fields.take("vocab_size", positive),
        num_blocks=fields.take("num_blocks", positive),
        block_size=fields.take("block_size", positive),
    )
    fields.end()
    return head


def _step(record: Any, head: RecordingHead) -> RecordedStep:
    fields = _Object(record, "")
    step_id = fields.take("step_id", _integer(0, 2**63 - 1))
    chunks = fields.take("chunks", _list(lambda value, path: _chunk(value, path, head)))
    results = fields.take("results", _list(lambda value, path: _result(value, path, head)))
    fields.end()
    if len({chunk.sequence_id for chunk in chunks}) < len(chunks):
        raise InvalidInput("chunks has a sequence twice", field="chunks")
    if len(results) != len(chunks):
        raise InvalidInput(f"results has {len(results)} entries for {len(chunks)} chunks", field="results")
    for index, (chunk, result) in enumerate(zip(chunks, results, strict=True)):
        num_scores = sum(target >= 0 for target in chunk.score_targets)
        is_answer = result.sequence_id == chunk.sequence_id and len(result.scores) == num_scores
        if not is_answer or len(result.token_ids) != len(chunk.draws) or len(result.logprobs) > len(chunk.draws):
            raise InvalidInput(f"results[{index}] is no answer to chunks[{index}]", field=f"results[{index}]")
    return RecordedStep(StepPlan(step_id, chunks), results)


def _chunk(value: Any, path: str, head: RecordingHead) -> Chunk:
    fields = _Object(value, path)
    chunk = Chunk(
        sequence_id=fields.take("sequence_id", _integer(0, 2**63 - 1)),
        token_ids=fields.take("token_ids", _list(_token_id(head))),
        start_position=fields.take("start_position", _integer(0, 2**31 - 1)),
        block_table=fields.take("block_table", _list(_integer(0, head.num_blocks - 1))),
        draws=fields.take("draws", _list(lambda draw, at: _draw(draw, at, head)), ()),
        score_targets=fields.take("score_targets", _list(_integer(-1, head.vocab_size - 1)), ()),
        num_score_logprobs=fields.take("num_score_logprobs", _integer(0, head.vocab_size), 0),
    )
    fields.end()
    if not chunk.token_ids:
        raise InvalidInput(f"{path}.token_ids is empty", field=path)
    if len(chunk.block_table) != -(-chunk.context_len // head.block_size):
        raise InvalidInput(
            f"{path}.block_table has {len(chunk.block_table)} blocks of {head.block_size} "
            f"for {chunk.context_len} tokens",
            field=path,
        )
    if len(set(chunk.block_table)) < len(chunk.block_table):
        raise InvalidInput(f"{path}.block_table has a block twice", field=path)
    if chunk.score_targets and len(chunk.score_targets) != len(chunk.token_ids):
        raise InvalidInput(f"{path}.score_targets must be one for each token", field=path)
    if len(chunk.draws) > len(chunk.token_ids):
        raise InvalidInput(f"{path}.draws are more than there are tokens", field=path)
    return chunk


def _draw(value: Any, path: str, head: RecordingHead) -> Draw:
    fields = _Object(value, path)
    token_ids = _list(_token_id(head))
    draw = Draw(
        params=fields.take("params", lambda params, at: _sampling(params, at, head)),
        prompt_token_ids=fields.take("prompt_token_ids", token_ids, ()),
        output_token_ids=fields.take("output_token_ids", token_ids, ()),
        banned=fields.take("banned", token_ids, ()),
        allowed=fields.take_optional("allowed", _bytes),
    )
    fields.end()
    return draw


def _sampling(value: Any, path: str, head: RecordingHead) -> SamplingParams:
    fields, number, integer = _Object(value, path), _number, _integer(-(2**63), 2**64)
    plain = SamplingParams()
    params = SamplingParams(
        temperature=fields.take("temperature", number, plain.temperature),
        top_k=fields.take("top_k", integer, plain.top_k),
        top_p=fields.take("top_p", number, plain.top_p),
        min_p=fields.take("min_p", number, plain.min_p),
        seed=fields.take("seed", integer, plain.seed),
        num_logprobs=fields.take("num_logprobs", integer, plain.num_logprobs),
        repetition_penalty=fields.take("repetition_penalty", number, plain.repetition_penalty),
        frequency_penalty=fields.take("frequency_penalty", number, plain.frequency_penalty),
        presence_penalty=fields.take("presence_penalty", number, plain.presence_penalty),
        logit_bias=fields.take("logit_bias", _list(_pair(head)), ()),
    )
    fields.end()
    check_sampling(params)
    return params


def _result(value: Any, path: str, head: RecordingHead) -> ChunkResult:
    fields = _Object(value, path)
    result = ChunkResult(
        sequence_id=fields.take("sequence_id", _integer(0, 2**63 - 1)),
        token_ids=fields.take("token_ids", _list(_token_id(head)), ()),
        logprobs=fields.take("logprobs", _list(lambda entry, at: _logprobs(entry, at, head)), ()),
        scores=fields.take("scores", _list(lambda score, at: _logprobs(score, at, head)), ()),
    )
    fields.end()
    return result


def _logprobs(value: Any, path: str, head: RecordingHead) -> TokenLogprobs:
    fields = _Object(value, path)
    logprobs = TokenLogprobs(
        token_id=fields.take("token_id", _token_id(head)),
        logprob=fields.take("logprob", _number),
        top=fields.take("top", _list(_pair(head)), ()),
    )
    fields.end()
    return logprobs


def _integer(low: int, high: int) -> Callable[[Any, str], int]:
    def check(value: Any, path: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidInput(f"{path} is {_shown(value)}; it must be a whole number, {low} to {high}", field=path)
        return value

    return check


def _token_id(head: RecordingHead) -> Callable[[Any, str], int]:
    return _integer(0, head.vocab_size - 1)


def _number(value: Any, path: str) -> float:
    """A float, or what JSON has no number for, as text."""
    if isinstance(value, str) and value in ("inf", "-inf", "nan"):
        return float(value)
    if not isinstance(value, float | int) or isinstance(value, bool) or not math.isfinite(value):
        raise InvalidInput(f"{path} is {_shown(value)}; it must be a number", field=path)
    return value


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{path} is {_shown(value)}; it must be text", field=path)
    return value


def _bytes(value: Any, path: str) -> bytes:
    try:
        return base64.b64decode(_text(value, path), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{path} is not base64", field=path) from None


def _list(item: Callable[[Any, str], _T]) -> Callable[[Any, str], tuple[_T, ...]]:
    def check(value: Any, path: str) -> tuple[_T, ...]:
        if not isinstance(value, list):
            raise InvalidInput(f"{path} is {_shown(value)}; it must be a list", field=path)
        return tuple(item(each, f"{path}[{index}]") for index, each in enumerate(value))

    return check


def _pair(head: RecordingHead) -> Callable[[Any, str], tuple[int, float]]:
    def check(value: Any, path: str) -> tuple[int, float]:
        if not isinstance(value, list) or len(value) != 2:
            raise InvalidInput(f"{path} is {_shown(value)}; it must be a token id and a number", field=path)
        return _token_id(head)(value[0], path), _number(value[1], path)

    return check


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 64 else f"{text[:64]}…"

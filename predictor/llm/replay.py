"""Runs recorded steps again, on a backend of its own, and says where the results are not the same.

Plans are taken from the recording and not made anew, so nothing but the computation is compared. Equal means equal to
the bit: tokens, log-probabilities, scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TextIO

from mesh.errors import InvalidInput
from predictor.llm.backend import Backend
from predictor.llm.factory import EngineModel
from predictor.llm.step import ChunkResult
from predictor.llm.step_json import RecordedStep, RecordingHead, read_steps
from predictor.llm.step_text import counted


def replay(model: EngineModel, recording: TextIO, out: TextIO) -> bool:
    """Run all steps and write a line for each; True when every result is the recorded one.

    Raises InvalidInput when the recording is malformed, or of another model than this one.
    """
    head, steps = read_steps(recording)
    _check_fits(model, head)
    model.backend.warm_up()
    model.backend.allocate(head.num_blocks, head.block_size)
    num_steps = 0
    different: list[int] = []
    for step in steps:
        _check_context(model, step)
        num_steps += 1
        differences = _differences(model.backend, step)
        tokens = counted(step.plan.num_tokens, "token")
        out.write(f"step {step.plan.step_id}: {tokens}, {'DIFFERENT' if differences else 'same'}\n")
        out.writelines(f"  {difference}\n" for difference in differences)
        if differences:
            different.append(step.plan.step_id)
    if different:
        out.write(f"{len(different)} of {num_steps} steps are different; the first is step {different[0]}\n")
    else:
        out.write(f"{num_steps} steps, all the same\n")
    return not different


def _check_fits(model: EngineModel, head: RecordingHead) -> None:
    facts = model.facts
    for field in ("architecture", "dtype", "vocab_size"):
        recorded, actual = getattr(head, field), getattr(facts, field)
        if recorded != actual:
            raise InvalidInput(
                f"the recording is of a model whose {field} is {str(recorded)[:64]}; this one's is {actual}",
                field=field,
            )
    size_bytes, free_bytes = head.num_blocks * model.backend.block_bytes(head.block_size), model.free_bytes()
    if size_bytes > free_bytes:
        raise InvalidInput(
            f"the recording's {head.num_blocks} blocks of {head.block_size} tokens take {size_bytes} bytes; "
            f"{free_bytes} are free",
            field="num_blocks",
        )


def _check_context(model: EngineModel, step: RecordedStep) -> None:
    longest = max((chunk.context_len for chunk in step.plan.chunks), default=0)
    if longest > model.facts.max_context_tokens:
        raise InvalidInput(
            f"step {step.plan.step_id} has a context of {longest} tokens; "
            f"the model takes {model.facts.max_context_tokens}",
            field="start_position",
        )


def _differences(backend: Backend, step: RecordedStep) -> list[str]:
    if not step.plan.chunks:
        return []
    results = backend.execute(step.plan)
    return [
        difference
        for recorded, result in zip(step.results, results, strict=True)
        for difference in _different_fields(recorded, result)
    ]


def _different_fields(recorded: ChunkResult, result: ChunkResult) -> Iterable[str]:
    for field in dataclasses.fields(ChunkResult):
        # By their texts: a NaN is the same as a NaN, and 0.0 is not -0.0.
        before, now = repr(getattr(recorded, field.name)), repr(getattr(result, field.name))
        if before != now:
            yield f"#{recorded.sequence_id} {field.name}: {_short(now)}, recorded {_short(before)}"


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"

"""Tool calls on their way through: the request is told what they must look like, the answer is read for them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from mesh.errors import InvalidInput, Unavailable
from mesh.v1 import language_model_pb2 as lm
from transformer.tools.declarations import CHOICE_FIELD, TOOLS_FIELD, ToolUse
from transformer.tools.format import CallPart, OutputParser, ToolFormat

_GUIDE_FIELD = "sampling.guide"


@dataclass(frozen=True, slots=True)
class ToolCalling:
    """What one request's model may call, and how it writes that."""

    format: ToolFormat
    use: ToolUse

    def guide(self, sampling: lm.SamplingParameters) -> None:
        """Hold the output to the tools. Raises InvalidInput when the request has a guide of its own."""
        if sampling.HasField("guide"):
            raise InvalidInput(
                f"{_GUIDE_FIELD} and {TOOLS_FIELD} both say what the output must look like; leave one out, or set "
                f"{CHOICE_FIELD} to 'none'",
                field=_GUIDE_FIELD,
            )
        sampling.guide.grammar = self.format.grammar(self.use)

    async def read(
        self, answers: AsyncGenerator[lm.GenerateResponse, None], known_ids: Sequence[int] = ()
    ) -> AsyncGenerator[lm.GenerateResponse, None]:
        """The answers to the guided request, with the calls in their text as calls. Owns and closes `answers`.

        known_ids: tokens that `answers` repeats first, in one message, and that the caller has: they are read, and
        nothing of them is told. Raises Unavailable when they are not repeated.
        """
        reader = ToolCallReader(self.format)
        async with aclosing(answers):
            try:
                async for response in answers:
                    reader.read(response)
                    if known_ids and response.token_ids:
                        _forget(response, known_ids)
                        known_ids = ()
                    yield response
            except InvalidInput as error:
                if not (error.field or "").startswith(_GUIDE_FIELD):
                    raise
                # The guide is ours: what is wrong with it came from a schema of the tools.
                sentence = f"{TOOLS_FIELD} has a schema that the output cannot be held to: {error.message}"
                raise InvalidInput(sentence, field=TOOLS_FIELD) from error


def _forget(response: lm.GenerateResponse, known_ids: Sequence[int]) -> None:
    """Take out of a message that repeats what the caller has all but its start."""
    if list(response.token_ids) != list(known_ids):
        raise Unavailable("the predictor does not repeat the tokens to go on from, so calls in them cannot be read")
    response.text = ""
    for field in ("token_ids", "tool_calls"):
        response.ClearField(field)


def _new_call_id() -> str:
    return f"call_{uuid.uuid4().hex}"


class ToolCallReader:
    """Takes the calls out of the text of one stream's messages; each output is read on its own.

    The rest of a message stays as it is: token_ids and logprobs are those of all tokens, calls included.

    What is told after so much text does not depend on how it was cut: a reader that has read the beginning of an output
    goes on as the one did that read it first (transformer/tools/format.py).
    """

    def __init__(self, tool_format: ToolFormat, new_call_id: Callable[[], str] = _new_call_id) -> None:
        self._format = tool_format
        self._new_call_id = new_call_id
        self._parsers: dict[int, OutputParser] = {}

    def read(self, response: lm.GenerateResponse) -> None:
        """Change `response` to what the caller shall see."""
        parser = self._parsers.get(response.index)
        if parser is None:
            parser = self._parsers[response.index] = self._format.parser()
        is_last = response.finish_reason != lm.FINISH_REASON_UNSPECIFIED
        parsed = [parser.push(response.text)]
        if is_last:
            parsed.append(parser.finish())
            del self._parsers[response.index]
        response.text = "".join(piece.text for piece in parsed)
        for piece in parsed:
            for part in piece.parts:
                self._add(response, part)
        if response.finish_reason == lm.FINISH_REASON_STOP and parser.num_complete:
            response.finish_reason = lm.FINISH_REASON_TOOL_CALLS

    def _add(self, response: lm.GenerateResponse, part: CallPart) -> None:
        """Parts come in order, so only the last delta can be of the same call."""
        if response.tool_calls and response.tool_calls[-1].index == part.call_index:
            response.tool_calls[-1].arguments += part.arguments
            return
        call_id = self._new_call_id() if part.name else ""
        response.tool_calls.add(index=part.call_index, id=call_id, name=part.name, arguments=part.arguments)

"""The way of a request through the transformer: messages become text, and calls in the answer's text become tool calls.

Everything else passes as it is. Takes and gives the messages of `mesh.v1`; knows no server and no channel. Issue by
issue, more kinds of steps find their place here: before `NextHops` is called for what comes in, around its answer for
what goes out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from mesh.errors import InvalidInput, NotFound
from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm
from transformer.descriptions import Descriptions
from transformer.next_hops import NextHops
from transformer.prompts import Prompts

MAX_SCORE_ITEMS = 1024


class Pipeline:
    """One method per RPC. Raises ModelNotFound for an unknown deployment, and what steps and next hops raise."""

    def __init__(self, next_hops: NextHops, prompts: Prompts, descriptions: Descriptions) -> None:
        self._next_hops = next_hops
        self._prompts = prompts
        self._descriptions = descriptions

    async def generate(self, request: lm.GenerateRequest) -> AsyncIterator[lm.GenerateResponse]:
        """The predictor's answer; its first message bears the prompt when it was rendered here.

        With tools the output is held to their grammar, and the calls in it come as calls.
        """
        deployment = self._next_hops.deployment(request.model_name)
        prompt = None
        if request.HasField("messages"):
            prompt = await self._prompts.render(deployment, request.model_version, request.messages)
            request.text = prompt.text
        if prompt is None or prompt.tool_calling is None:
            answers = self._next_hops.generate(request)
        else:
            prompt.tool_calling.guide(request.sampling)
            # What the caller has, the reader must read all the same: calls may be open in it.
            has_read = () if request.repeat_continued else tuple(request.continue_from)
            request.repeat_continued = bool(request.continue_from)
            answers = prompt.tool_calling.read(self._next_hops.generate(request), has_read)
        async with aclosing(answers):
            async for response in answers:
                if prompt is not None and response.HasField("start"):
                    response.start.rendered_prompt = prompt.text
                    self._descriptions.answered_by(deployment, request.model_version, response.start.model_digest)
                yield response

    async def score(self, request: lm.ScoreRequest) -> lm.ScoreResponse:
        if len(request.items) > MAX_SCORE_ITEMS:
            raise InvalidInput(f"items has {len(request.items)} entries; at most {MAX_SCORE_ITEMS}", field="items")
        deployment = self._next_hops.deployment(request.model_name)
        chats = {f"items[{index}]": item for index, item in enumerate(request.items) if item.HasField("messages")}
        if chats:
            conversations = {place: item.messages for place, item in chats.items()}
            prompts = await self._prompts.render_all(deployment, request.model_version, conversations)
            for place, item in chats.items():
                item.text = prompts[place]
        return await self._next_hops.score(request)

    async def tokenize(self, request: lm.TokenizeRequest) -> lm.TokenizeResponse:
        deployment = self._next_hops.deployment(request.model_name)
        if request.HasField("messages"):
            prompt = await self._prompts.render(deployment, request.model_version, request.messages)
            request.text = prompt.text
        return await self._next_hops.tokenize(request)

    async def detokenize(self, request: lm.DetokenizeRequest) -> lm.DetokenizeResponse:
        return await self._next_hops.detokenize(request)

    async def describe(self, request: lm.DescribeModelRequest) -> lm.DescribeModelResponse:
        return await self._next_hops.describe(request)

    async def explain(self, request: explain_pb2.ExplainRequest) -> explain_pb2.ExplainResponse:
        """The explainer's answer. Raises NotFound when the deployment has no explainer."""
        deployment = self._next_hops.deployment(request.model_name)
        if not deployment.HasField("explainer"):
            raise NotFound(f"deployment '{deployment.name}' has no explainer", field="model_name")
        if request.text.HasField("messages"):
            segments = await self._prompts.render_segments(deployment, request.model_version, request.text.messages)
            request.text.rendered.CopyFrom(
                explain_pb2.RenderedPrompt(
                    segments=[
                        explain_pb2.PromptSegment(text=segment.text, explainable=segment.explainable)
                        for segment in segments
                    ]
                )
            )
        return await self._next_hops.explain(request)

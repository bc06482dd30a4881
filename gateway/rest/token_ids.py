"""vLLM's /tokenize and /detokenize: what a model makes of a text or a conversation, and back.

Reference: vLLM's OpenAI-compatible server, "Tokenizer API".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.dataplane import Dataplane
from gateway.exchange import Exchange
from gateway.passthrough import LANGUAGE_MODEL
from gateway.rest import bodies, openai_not_served, sse
from gateway.rest.bodies import Json, json_response
from gateway.rest.openai_messages import Conversation
from gateway.rest.openai_tools import ToolFields
from gateway.rest.sampling_fields import TokenId
from gateway.rest.validation import Strict, validated
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

_NOT_SERVED: openai_not_served.Table = {"return_token_strs": (False,)}
# Values that ask for what happens anyway: the prompt's tokens are those that a completion of it would have.
TEXT: openai_not_served.Table = {**_NOT_SERVED, "add_special_tokens": (True,)}
CHAT: openai_not_served.Table = {
    **_NOT_SERVED,
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
}

ModelName = Annotated[str, Field(max_length=256)]


class TokenizeTextRequest(Strict):
    model: ModelName
    prompt: str

    def to_tokenize(self) -> lm.TokenizeRequest:
        """The request to the mesh."""
        return lm.TokenizeRequest(model_name=self.model, text=self.prompt)


class TokenizeChatRequest(ToolFields, Conversation):
    model: ModelName

    def to_tokenize(self) -> lm.TokenizeRequest:
        """The request to the mesh. Raises InvalidInput."""
        messages = self.to_messages()
        self.add_tools(messages)
        return lm.TokenizeRequest(model_name=self.model, messages=messages)


class DetokenizeRequest(Strict):
    model: ModelName
    tokens: list[TokenId]


class TokenRoutes:
    """Handlers of the two routes."""

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize"""
        asked = _parse_tokenize(await bodies.read_object(request))
        exchange = sse.exchange_of(request)
        token_ids, description = await asyncio.gather(
            tokenize(asked.to_tokenize(), self._dataplane, exchange), self._describe(asked.model, exchange)
        )
        return json_response(
            {
                "count": len(token_ids),
                "max_model_len": description.max_context_tokens,
                "tokens": list(token_ids),
                "token_strs": None,
            }
        )

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize"""
        asked = validated(DetokenizeRequest, await bodies.read_object(request))
        exchange = sse.exchange_of(request)
        self._dataplane.language_model(asked.model, exchange)
        message = lm.DetokenizeRequest(model_name=asked.model, token_ids=asked.tokens)
        answer = await self._dataplane.forward(
            LANGUAGE_MODEL + "Detokenize", asked.model, message.SerializeToString(), exchange
        )
        return json_response({"prompt": lm.DetokenizeResponse.FromString(answer).text})

    async def _describe(self, model: str, exchange: Exchange) -> lm.DescribeModelResponse:
        message = lm.DescribeModelRequest(model_name=model)
        answer = await self._dataplane.forward(
            LANGUAGE_MODEL + "DescribeModel", model, message.SerializeToString(), exchange
        )
        return lm.DescribeModelResponse.FromString(answer)


async def tokenize(request: lm.TokenizeRequest, dataplane: Dataplane, exchange: Exchange) -> Sequence[int]:
    """The token ids of what `request` holds. Raises ModelNotFound, InvalidInput, and what the model raises."""
    dataplane.language_model(request.model_name, exchange)
    answer = await dataplane.forward(
        LANGUAGE_MODEL + "Tokenize", request.model_name, request.SerializeToString(), exchange
    )
    return lm.TokenizeResponse.FromString(answer).token_ids


def _parse_tokenize(body: Mapping[str, Json]) -> TokenizeTextRequest | TokenizeChatRequest:
    """The request in `body`, which has a prompt or messages. Raises InvalidInput."""
    if "messages" in body:
        if "prompt" in body:
            raise InvalidInput("'prompt' and 'messages' are both given; give one of them", field="prompt")
        openai_not_served.refuse(body, CHAT)
        return validated(TokenizeChatRequest, body)
    openai_not_served.refuse(body, TEXT)
    return validated(TokenizeTextRequest, body)

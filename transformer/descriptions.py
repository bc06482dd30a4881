"""What is known of the models behind the deployments: their templates and special tokens, asked once and kept.

An entry belongs to a deployment as it is applied now (its generation and artifact) and is dropped when an answer shows
that another artifact runs, so a rolling update is noticed from both sides.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from mesh.v1 import language_model_pb2 as lm
from mesh.v1.registry_pb2 import Deployment
from transformer.steps.prompt import PromptModel

Describe = Callable[[lm.DescribeModelRequest], Awaitable[lm.DescribeModelResponse]]
_Key = tuple[str, str, int, str, str]


class Descriptions:
    """At most `capacity` models, the least recently used forgotten first."""

    def __init__(self, describe: Describe, capacity: int = 64) -> None:
        self._describe = describe
        self._capacity = capacity
        self._known: OrderedDict[_Key, PromptModel] = OrderedDict()

    async def get(self, deployment: Deployment, version: str) -> PromptModel:
        """The model that answers for `version` (empty: the deployment's own). Raises what DescribeModel answers."""
        key = _key(deployment, version)
        model = self._known.get(key)
        if model is None:
            request = lm.DescribeModelRequest(model_name=deployment.name, model_version=version)
            model = self._known[key] = _prompt_model(deployment.name, await self._describe(request))
        self._known.move_to_end(key)
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)
        return model

    def answered_by(self, deployment: Deployment, version: str, digest: str) -> None:
        """Take note of which artifact answered: if it is another one, what is known of it is out of date."""
        key = _key(deployment, version)
        model = self._known.get(key)
        if model is not None and digest and model.digest != digest:
            del self._known[key]


def _key(deployment: Deployment, version: str) -> _Key:
    predictor = deployment.predictor
    return deployment.name, version, deployment.generation, predictor.storage_uri, predictor.sha256


def _prompt_model(name: str, description: lm.DescribeModelResponse) -> PromptModel:
    return PromptModel(
        name=name,
        digest=description.model_digest,
        chat_template=description.chat_template,
        bos_token=description.bos_token,
        eos_token=description.eos_token,
    )

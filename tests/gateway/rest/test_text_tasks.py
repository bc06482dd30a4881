"""Which models can do a task of texts, and whose words an error has."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from gateway.dataplane import Dataplane
from gateway.exchange import Exchange
from gateway.rest.text_tasks import TextTask, run_text_task
from mesh.errors import InvalidInput, ModelNotFound, PromptTooLong
from mesh.oip.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mesh.pool import EndpointPool
from mesh.testing import serve_on_free_port
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Deployment, Replica, ServedModel
from mesh.view import MeshView
from tests.gateway.fake_text_models import MODELS, TOO_LONG, FakeTextModels, vector_of

TASK = TextTask({"input": "text"}, "embedding", 2, "embeds nothing")


@pytest.fixture
async def dataplane() -> AsyncIterator[Dataplane]:
    """In front of a predictor with the fake models."""
    async with serve_on_free_port((add_GRPCInferenceServiceServicer_to_server, FakeTextModels())) as address:
        served = [ServedModel(name=name, version="1", ready=True) for name in MODELS]
        replica = Replica(id="p", kind=SERVICE_KIND_PREDICTOR, address=address, models=served)
        view = MeshView({name: Deployment(name=name) for name in MODELS}, {"p": replica})
        pool = EndpointPool(lambda: view)
        yield Dataplane(pool, lambda: view, request_timeout_s=5)
        await pool.close()


@pytest.fixture
def exchange() -> Exchange:
    return Exchange("openai", "", "id", 0.0, 0.0, lambda: 0.0, 1 << 20)


async def test_rows_and_tokens_come_back_and_the_exchange_knows(dataplane: Dataplane, exchange: Exchange) -> None:
    answer = await run_text_task(TASK, "embed", {"input": ["a", "b c"]}, dataplane, exchange)

    assert np.array_equal(answer.values, np.stack([vector_of("a"), vector_of("b c")]))
    assert answer.num_tokens == 7
    assert (exchange.deployment, len(exchange.tensor_calls)) == ("embed", 1)


async def test_model_is_judged_by_its_tensors(dataplane: Dataplane, exchange: Exchange) -> None:
    for model in ("iris", "rerank"):
        with pytest.raises(InvalidInput, match=f"model '{model}' embeds nothing"):
            await run_text_task(TASK, model, {"input": ["a"]}, dataplane, exchange)
    with pytest.raises(ModelNotFound):
        await run_text_task(TASK, "nobody", {"input": ["a"]}, dataplane, exchange)


async def test_error_keeps_its_kind_and_gets_the_clients_words(dataplane: Dataplane, exchange: Exchange) -> None:
    with pytest.raises(PromptTooLong) as caught:
        await run_text_task(TASK, "embed", {"input": ["a", TOO_LONG]}, dataplane, exchange)

    assert (caught.value.field, caught.value.message) == ("input[1]", "input[1] has 9 tokens; the model takes 8")

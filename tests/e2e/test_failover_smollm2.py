"""A real model behind two predictors, two transformers and a gateway: whatever dies, a client sees one stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
import yaml
from openai.types.chat import ChatCompletionChunk

from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from tests.conftest import SMOLLM2_SHA256
from tests.e2e.breakable import Door, door_to
from tests.mesh.generation_rig import whole
from tests.predictor.running import RunningPredictor, eventually, running_predictor

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "maximum": 9}},
            "required": ["city", "days"],
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded, three answers": {"temperature": 1, "seed": 5, "n": 3},
    "logprobs": {"temperature": 0, "logprobs": True, "top_logprobs": 2},
    "a tool call": {"temperature": 0, "tools": [WEATHER], "tool_choice": "required"},
    "a schema": {
        "temperature": 0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}},
    },
}


# After so many messages something dies.
PLACES = (1, 3, 6, 11)


@dataclass
class Mesh:
    """doors: to the predictors and to the transformers. hops: who has a choice of them."""

    client: openai.AsyncOpenAI
    gateway: RunningPredictor
    doors: dict[str, list[Door]]
    hops: list[RunningPredictor]

    @property
    def log(self) -> Path:
        return self.gateway.folder / "state" / "predictions.jsonl"

    async def num_resumed(self) -> float:
        """Streams that went on elsewhere, at any hop, so far."""
        total = 0.0
        async with httpx.AsyncClient(trust_env=False) as http:
            for hop in self.hops:
                text = (await http.get(f"http://{hop.addresses['metrics_address']}/metrics")).text
                lines = [line for line in text.splitlines() if line.startswith("meshserve_stream_resumptions_total{")]
                total += sum(float(line.rpartition(" ")[2]) for line in lines)
        return total

    async def chat(self, asked: dict[str, Any], slam: str = "", after: int = 0) -> list[ChatCompletionChunk]:
        """All chunks; after so many of them everything of the service `slam` is dead, but one that was idle.

        Which one is busy nobody here knows: both are slammed, and one is opened again. The stream waits for it.
        """
        stream = await self.client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": "Say something of the sea."}],
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
            **asked,
        )
        chunks = []
        async for chunk in stream:
            chunks.append(chunk)
            if len(chunks) == after:
                self.slam(slam, after)
        self.open()
        return chunks

    def slam(self, service: str, number: int) -> None:
        for door in self.doors[service]:
            door.slam()
        self.doors[service][number % 2].open()

    def open(self) -> None:
        for doors in self.doors.values():
            for door in doors:
                door.open()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    spec = {"model_format": "llm", "storage_uri": smollm2_gguf.as_uri(), "sha256": SMOLLM2_SHA256}
    deployments = [{"name": "smollm2", "predictor": spec, "transformer": {"steps": ["chat_template"]}}]
    (folder / "deployments.yaml").write_text(json.dumps({"deployments": deployments}))
    async with AsyncExitStack() as stack:

        async def start(name: str, *flags: str) -> RunningPredictor:
            (folder / name).mkdir()
            module = name.rstrip("12")
            return await stack.enter_async_context(running_predictor(folder / name, *flags, module=module))

        async def doors_to(*services: RunningPredictor) -> list[Door]:
            return [await stack.enter_async_context(door_to(one.addresses["grpc_address"])) for one in services]

        def endpoints(**listed: list[Door]) -> str:
            file = folder / f"{'-'.join(listed)}.yaml"
            addresses = {service: [door.address for door in doors] for service, doors in listed.items()}
            file.write_text(yaml.safe_dump({"endpoints": addresses, "deployments": deployments}))
            return str(file)

        models = ("--deployments", str(folder / "deployments.yaml"))
        predictors = await asyncio.gather(start("predictor1", *models), start("predictor2", *models))
        await asyncio.gather(*(predictor.until_ready("smollm2", 240) for predictor in predictors))
        behind = await doors_to(*predictors)
        flags = ("--endpoints", endpoints(predictor=behind))
        transformers = await asyncio.gather(start("transformer1", *flags), start("transformer2", *flags))
        doors = await doors_to(*transformers)
        file = endpoints(transformer=doors, predictor=behind)
        gateway = await start("gateway", "--endpoints", file, "--http-port", "0")
        url = f"http://{gateway.addresses['http_address']}"
        client = await stack.enter_async_context(
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        )

        async def is_ready() -> bool:
            async with httpx.AsyncClient(trust_env=False) as http:
                return (await http.get(f"{url}/v2/models/smollm2/ready")).status_code == 200

        await eventually(is_ready, 60, "the gateway serves the model")
        yield Mesh(client, gateway, {"predictor": behind, "transformer": doors}, [gateway, *transformers])


def answer(chunks: list[ChatCompletionChunk]) -> dict[str, Any]:
    """What a client puts together; ids of calls are checked and left out, since each request has its own."""
    outputs: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            output = outputs.setdefault(
                choice.index, {"text": "", "logprobs": [], "calls": [], "finish_reason": None, "roles": []}
            )
            output["text"] += choice.delta.content or ""
            output["roles"] += [choice.delta.role] if choice.delta.role else []
            output["logprobs"] += (choice.logprobs.content or []) if choice.logprobs else []
            for call in choice.delta.tool_calls or []:
                if call.id:
                    output["calls"].append(["", ""])
                assert call.function is not None
                output["calls"][call.index][0] += call.function.name or ""
                output["calls"][call.index][1] += call.function.arguments or ""
            output["finish_reason"] = choice.finish_reason or output["finish_reason"]
    usage = chunks[-1].usage
    assert usage is not None
    return {**outputs, "tokens": (usage.prompt_tokens, usage.completion_tokens)}


@pytest.mark.parametrize("victim", ["predictor", "transformer"])
@pytest.mark.parametrize("case", CASES)
async def test_the_client_sees_one_stream(mesh: Mesh, case: str, victim: str) -> None:
    expected = answer(await mesh.chat(CASES[case]))
    num_before = await mesh.num_resumed()

    for after in PLACES:
        chunks = await mesh.chat(CASES[case], victim, after)

        assert answer(chunks) == expected, f"cut after {after} chunks"
        assert len({chunk.id for chunk in chunks}) == 1
    # A cut may come too late: when the rest is on its way to the client.
    assert await mesh.num_resumed() - num_before >= len(PLACES) - 1


async def test_a_grpc_client_sees_one_stream(mesh: Mesh) -> None:
    sampling = lm.SamplingParameters(temperature=1, seed=4, n=2, max_tokens=24, logprobs=1, prompt_logprobs=0)
    request = lm.GenerateRequest(model_name="smollm2", text="The sea is", sampling=sampling)
    num_before = await mesh.num_resumed()
    answers = []
    async with mesh.gateway.channel() as channel:
        for after in (0, *PLACES):
            messages = []
            async for message in LanguageModelStub(channel).Generate(request, timeout=60):
                messages.append(message)
                if len(messages) == after:
                    mesh.slam("transformer", after)
            mesh.open()
            answers.append([whole(messages, index) for index in range(2)])

    for outputs in answers:
        for output in outputs:
            output.usage.cached_tokens = 0
        assert outputs == answers[0]
    assert await mesh.num_resumed() - num_before >= len(PLACES) - 1


async def test_the_record_says_that_the_stream_moved(mesh: Mesh) -> None:
    def moves() -> list[dict[str, Any]]:
        records = [json.loads(line) for line in mesh.log.read_text().splitlines()]
        return [move for record in records for move in record.get("moves", [])]

    # What moved because its transformer died may have gone on at the same predictor, which had its prefix.
    num_before = len(moves())
    await mesh.chat(CASES["greedy"], "predictor", 3)
    await mesh.chat(CASES["greedy"], "predictor", 4)

    async def has_moved() -> bool:
        return any(move["from"] != move["to"] for move in moves()[num_before:])

    await eventually(has_moved, 10, "a record of a move from one predictor to another")
    assert all(move["after_tokens"] > 0 for move in moves()[num_before:])

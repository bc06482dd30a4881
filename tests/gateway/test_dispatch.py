"""Traffic through a whole gateway: each front gets the version that rules say, and a fallback when nobody is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc.aio
import httpx
import pytest

from gateway.exchange import ARM_HEADER, SERVED_BY_HEADER
from mesh.errors import InvalidInput, Unavailable
from mesh.multiplex.channel import open_multiplexed
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.explain_pb2_grpc import ExplainServiceStub
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from mesh.v1.registry_pb2 import Canary, RouteRule, TrafficSpec
from tests.gateway.traffic_rig import TrafficMesh, VersionedPredictor, deployment, traffic_mesh

ROWS = {"instances": [[1.0, 2.0]]}
V2_INPUT = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 2], "data": [1.0, 2.0]}]}
Headers = dict[str, str]


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[TrafficMesh]:
    async with traffic_mesh(tmp_path) as running:
        yield running


def infer_request(**fields: str) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(**{"model_name": "iris", **fields})
    request.inputs.add(name="input", datatype="FP64", shape=[1]).contents.fp64_contents.append(1.0)
    return request


# One function a front: (mesh, headers) → the version that answered.


async def by_v1(mesh: TrafficMesh, headers: Headers) -> str:
    answer = await mesh.http.post("/v1/models/iris:predict", json=ROWS, headers=headers)
    return f"{answer.raise_for_status().json()['predictions'][0]:g}"


async def by_v2(mesh: TrafficMesh, headers: Headers) -> str:
    body = (await mesh.http.post("/v2/models/iris/infer", json=V2_INPUT, headers=headers)).raise_for_status().json()
    assert body["model_name"] == "iris"
    return str(body["model_version"])


async def by_openai(mesh: TrafficMesh, headers: Headers) -> str:
    body = {"model": "chat", "prompt": "say"}
    answer = (await mesh.http.post("/v1/completions", json=body, headers=headers)).raise_for_status().json()
    assert answer["model"] == "chat"
    return str(answer["choices"][0]["text"]).removeprefix("version ")


async def by_v2_generate(mesh: TrafficMesh, headers: Headers) -> str:
    body = {"text_input": "say"}
    answer = (await mesh.http.post("/v2/models/chat/generate", json=body, headers=headers)).raise_for_status().json()
    assert answer["model_name"] == "chat"
    return str(answer["model_version"])


async def by_grpc_infer(mesh: TrafficMesh, headers: Headers) -> str:
    call = GRPCInferenceServiceStub(mesh.channel).ModelInfer(
        infer_request(), timeout=20, metadata=tuple(headers.items())
    )
    answer = await call
    assert answer.model_name == "iris"
    return answer.model_version


async def by_stream_infer(mesh: TrafficMesh, headers: Headers) -> str:
    async def requests() -> AsyncIterator[oip.ModelInferRequest]:
        for number in range(3):
            yield infer_request(id=str(number))

    stream = GRPCInferenceServiceStub(mesh.channel).ModelStreamInfer(
        requests(), timeout=20, metadata=tuple(headers.items())
    )
    answers = [answer.infer_response async for answer in stream]
    assert [(answer.model_name, answer.id) for answer in answers] == [("iris", "0"), ("iris", "1"), ("iris", "2")]
    [version] = {answer.model_version for answer in answers}
    return version


async def by_grpc_generate(mesh: TrafficMesh, headers: Headers) -> str:
    call = LanguageModelStub(mesh.channel).Generate(
        lm.GenerateRequest(model_name="chat", text="say"), timeout=20, metadata=tuple(headers.items())
    )
    messages = [message async for message in call]
    assert messages[0].start.model_name == "chat"
    assert "".join(message.text for message in messages) == f"version {messages[0].start.model_version}"
    return messages[0].start.model_version


FRONTS: list[Callable[[TrafficMesh, Headers], Awaitable[str]]] = [
    by_v1,
    by_v2,
    by_openai,
    by_v2_generate,
    by_grpc_infer,
    by_stream_infer,
    by_grpc_generate,
]
EVERY_FRONT = pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.__name__)


async def apply_to_both(mesh: TrafficMesh, traffic: TrafficSpec | None, versions: str = "12") -> None:
    await mesh.apply(deployment("iris", versions, traffic), deployment("chat", versions, traffic, model_format="llm"))


@EVERY_FRONT
async def test_every_front_gets_the_version_that_the_traffic_says(
    mesh: TrafficMesh, front: Callable[[TrafficMesh, Headers], Awaitable[str]]
) -> None:
    # It took version 9 for the deployed one at its start: what the registry says now is named in each request.
    await mesh.serve(VersionedPredictor(("9", "1", "2")), "iris", "chat")
    await apply_to_both(mesh, None)
    assert await front(mesh, {}) == "1"

    await apply_to_both(mesh, TrafficSpec(canary=Canary(model_version="2", percent=100)))
    assert await front(mesh, {}) == "2"

    rules = [RouteRule(header="x-group", value="control", model_version="1"), RouteRule(tag="new", model_version="2")]
    await apply_to_both(mesh, TrafficSpec(rules=rules))
    assert await front(mesh, {"x-group": "control"}) == "1"
    assert await front(mesh, {"x-meshserve-tag": "new"}) == "2"


@EVERY_FRONT
async def test_every_front_is_answered_by_the_fallback_under_the_asked_name(
    mesh: TrafficMesh, front: Callable[[TrafficMesh, Headers], Awaitable[str]]
) -> None:
    await mesh.serve(VersionedPredictor(("7",)), "simple", "small")
    await mesh.apply(
        deployment("iris", "12", TrafficSpec(fallback="simple")),
        deployment("chat", "12", TrafficSpec(fallback="small"), model_format="llm"),
        deployment("simple", "7", TrafficSpec(fallback="iris")),
        deployment("small", "7", TrafficSpec(fallback="chat"), model_format="llm"),
    )

    assert await front(mesh, {}) == "7"


async def test_explanation_is_of_the_version_that_the_traffic_says(mesh: TrafficMesh) -> None:
    explainer = await mesh.serve_explainer()
    await mesh.serve(VersionedPredictor(("1", "2")), "iris")
    iris = deployment("iris", "12", TrafficSpec(canary=Canary(model_version="2", percent=100)))
    iris.explainer.SetInParent()
    await mesh.apply(iris)

    request = explain_pb2.ExplainRequest(model_name="iris", text=explain_pb2.TextSubject(text="say"))
    await ExplainServiceStub(mesh.channel).Explain(request, timeout=20)

    assert [one.model_version for one in explainer.requests] == ["2"]


@pytest.mark.parametrize("has_explainer", [True, False])
async def test_explanation_of_a_fallback_needs_its_explainer(mesh: TrafficMesh, has_explainer: bool) -> None:
    explainer = await mesh.serve_explainer()
    iris, simple = deployment("iris", "1", TrafficSpec(fallback="simple")), deployment("simple", "7")
    iris.transformer.SetInParent()  # which nobody serves
    iris.explainer.SetInParent()
    if has_explainer:
        simple.explainer.method = "shapley"
    await mesh.apply(iris, simple)

    request = explain_pb2.ExplainRequest(model_name="iris", text=explain_pb2.TextSubject(text="say"))
    call = ExplainServiceStub(mesh.channel).Explain(request, timeout=20)

    if has_explainer:
        assert (await call).model_name == "iris"
        assert [(one.model_name, one.method) for one in explainer.requests] == [("simple", "shapley")]
    else:
        with pytest.raises(grpc.aio.AioRpcError, match="no explainer can answer, and the fallback 'simple' has none"):
            await call


async def test_named_version_is_what_the_request_gets(mesh: TrafficMesh) -> None:
    await mesh.serve(VersionedPredictor(("1", "2")), "iris")
    await apply_to_both(mesh, TrafficSpec(canary=Canary(model_version="2", percent=100), fallback="simple"))

    answer = await mesh.http.post("/v2/models/iris/versions/1/infer", json=V2_INPUT)
    by_grpc = await GRPCInferenceServiceStub(mesh.channel).ModelInfer(infer_request(model_version="1"), timeout=20)
    absent = await mesh.http.post("/v2/models/iris/versions/3/infer", json=V2_INPUT)

    assert answer.json()["model_version"] == by_grpc.model_version == "1"
    assert (answer.headers[SERVED_BY_HEADER], answer.headers[ARM_HEADER]) == ("iris/1", "named")
    assert absent.status_code == 404, "and never another version, nor the fallback"


async def test_only_replicas_that_have_the_version_are_asked(mesh: TrafficMesh) -> None:
    old, new = VersionedPredictor(("1",)), VersionedPredictor(("2",))
    await mesh.serve(old, "iris")
    await apply_to_both(mesh, TrafficSpec(canary=Canary(model_version="2", percent=50)))

    before = [await by_grpc_infer(mesh, {}) for _ in range(20)]
    await mesh.serve(new, "iris")
    after = [await by_grpc_infer(mesh, {}) for _ in range(60)]
    streamed = [await by_stream_infer(mesh, {}) for _ in range(20)]

    assert before == ["1"] * 20, "a canary that nobody has yet gets nothing"
    assert set(after) == {"1", "2"}
    assert set(streamed) == {"1", "2"}
    assert set(old.asked) == {("iris", "1")}
    assert set(new.asked) == {("iris", "2")}


async def test_session_stays_and_one_request_is_not_divided(mesh: TrafficMesh) -> None:
    await mesh.serve(VersionedPredictor(("1", "2")), "iris", "chat")
    await apply_to_both(mesh, TrafficSpec(canary=Canary(model_version="2", percent=50), sticky_header="x-session"))

    sessions = [[await by_v2(mesh, {"x-session": str(session)}) for _ in range(3)] for session in range(20)]
    by_front = [await by_grpc_infer(mesh, {"x-session": str(session)}) for session in range(20)]
    body = {"model": "chat", "prompt": ["a", "b", "c", "d", "e", "f", "g", "h"]}
    answers = [(await mesh.http.post("/v1/completions", json=body)).json() for _ in range(20)]
    choices = [{choice["text"] for choice in answer["choices"]} for answer in answers]

    assert all(len(set(versions)) == 1 for versions in sessions)
    assert {versions[0] for versions in sessions} == {"1", "2"}
    assert by_front == [versions[0] for versions in sessions]
    assert all(len(texts) == 1 for texts in choices)
    assert set.union(*choices) == {"version 1", "version 2"}


async def test_record_metric_and_headers_say_where_it_went(mesh: TrafficMesh) -> None:
    await mesh.serve(VersionedPredictor(("1", "2")), "iris")
    await mesh.serve(VersionedPredictor(("7",)), "simple")
    await mesh.apply(
        deployment("iris", "12", TrafficSpec(canary=Canary(model_version="2", percent=100))),
        deployment("away", "12", TrafficSpec(fallback="simple")),
        deployment("simple", "7"),
    )

    canary = await mesh.http.post("/v2/models/iris/infer", json=V2_INPUT)
    fallback = await mesh.http.post("/v2/models/away/infer", json=V2_INPUT)
    plain = await mesh.http.post("/v2/models/simple/infer", json=V2_INPUT)
    call = GRPCInferenceServiceStub(mesh.channel).ModelInfer(infer_request(model_name="away"), timeout=20)
    metadata = {str(key): value for key, value in await call.initial_metadata() or ()}
    records = await mesh.lines("predictions.jsonl", 4)

    assert (canary.headers[SERVED_BY_HEADER], canary.headers[ARM_HEADER]) == ("iris/2", "canary")
    assert (fallback.headers[SERVED_BY_HEADER], fallback.headers[ARM_HEADER]) == ("simple", "fallback")
    assert (metadata[SERVED_BY_HEADER], metadata[ARM_HEADER]) == ("simple", "fallback")
    assert SERVED_BY_HEADER not in plain.headers
    assert [record.get("traffic") for record in records] == [
        {"arm": "canary", "served_by": "iris/2"},
        {"arm": "fallback", "served_by": "simple"},
        None,
        {"arm": "fallback", "served_by": "simple"},
    ]
    counted = mesh.gateway.server.metrics_registry.get_sample_value
    name = "meshserve_gateway_routed_requests_total"
    assert counted(name, {"deployment": "iris", "served_by": "iris/2", "arm": "canary"}) == 1
    assert counted(name, {"deployment": "away", "served_by": "simple", "arm": "fallback"}) == 2


async def test_a_version_that_a_client_makes_up_is_no_label(mesh: TrafficMesh) -> None:
    await mesh.serve(VersionedPredictor(("1", "2")), "iris")
    await apply_to_both(mesh, None)

    answers = await asyncio.gather(
        *(mesh.http.post(f"/v2/models/iris/versions/{number}/infer", json=V2_INPUT) for number in range(50, 60))
    )

    assert {answer.status_code for answer in answers} == {404}
    series = [metric for metric in mesh.gateway.server.metrics_registry.collect() if "routed" in metric.name]
    assert [sample for metric in series for sample in metric.samples] == []


@pytest.mark.parametrize("fallback", ["nobody", "chat"], ids=["not deployed", "of another kind"])
async def test_fallback_that_cannot_stand_in_leaves_the_error(mesh: TrafficMesh, fallback: str) -> None:
    await mesh.serve(VersionedPredictor(("1",)), "chat")
    await mesh.apply(
        deployment("chat", "1", model_format="llm"), deployment("iris", "12", TrafficSpec(fallback=fallback))
    )

    answer = await mesh.http.post("/v2/models/iris/infer", json=V2_INPUT)

    assert answer.status_code == 503
    assert "no ready predictor for 'iris'" in answer.json()["error"]


async def test_fallback_is_asked_once_and_only_when_nobody_can_answer(mesh: TrafficMesh) -> None:
    predictor, other = VersionedPredictor(("1",)), VersionedPredictor(("7",))
    await mesh.serve(predictor, "iris")
    await mesh.serve(other, "simple")
    await mesh.apply(
        deployment("iris", "1", TrafficSpec(fallback="simple")), deployment("simple", "7", TrafficSpec(fallback="iris"))
    )
    predictor.failures["1"] = InvalidInput("no such input")
    refused = await mesh.http.post("/v2/models/iris/infer", json=V2_INPUT)
    asked_for_refused = list(other.asked)
    predictor.failures["1"] = other.failures["7"] = Unavailable("the device is lost")

    failed = await mesh.http.post("/v2/models/iris/infer", json=V2_INPUT)

    assert (refused.status_code, asked_for_refused) == (400, [])
    assert failed.status_code == 503
    assert other.asked == [("simple", "7")]
    assert predictor.asked == [("iris", "1")] * 2, "the fallback's own fallback is not followed"


async def test_of_one_request_the_first_call_finds_out_for_the_others(mesh: TrafficMesh) -> None:
    predictor, other = VersionedPredictor(("1",)), VersionedPredictor(("7",))
    predictor.failures["1"] = Unavailable("the device is lost")
    await mesh.serve(predictor, "iris")
    await mesh.serve(other, "simple")
    await mesh.apply(deployment("iris", "1", TrafficSpec(fallback="simple")), deployment("simple", "7"))

    assert await by_v1(mesh, {}) == "7"

    assert len(predictor.asked) == 1, "for its metadata"
    assert len(other.asked) == 2


async def test_call_that_comes_multiplexed_is_routed_as_any(mesh: TrafficMesh) -> None:
    await mesh.serve(VersionedPredictor(("1", "2")), "iris")
    await apply_to_both(mesh, TrafficSpec(canary=Canary(model_version="2", percent=100)))

    async with open_multiplexed(mesh.gateway.server.address) as channel:
        answer = await GRPCInferenceServiceStub(channel).ModelInfer(infer_request(), timeout=20)

    assert answer.model_version == "2"


async def test_stream_that_has_begun_does_not_begin_again_elsewhere(mesh: TrafficMesh) -> None:
    class Breaking(VersionedPredictor):
        async def Generate(self, request: lm.GenerateRequest, context: object) -> AsyncIterator[lm.GenerateResponse]:
            yield lm.GenerateResponse(start=lm.GenerationStart(model_name="chat", model_version="1"))
            if not request.continue_from:
                yield lm.GenerateResponse(text="half", token_ids=[1])
            raise Unavailable("the device is lost")

    other = VersionedPredictor(("7",))
    await mesh.serve(Breaking(("1",)), "chat")
    await mesh.serve(other, "small")
    await mesh.apply(
        deployment("chat", "1", TrafficSpec(fallback="small"), model_format="llm"),
        deployment("small", "7", model_format="llm"),
    )

    messages = []
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for message in LanguageModelStub(mesh.channel).Generate(
            lm.GenerateRequest(model_name="chat", text="say"), timeout=20
        ):
            messages.append(message)

    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "".join(message.text for message in messages) == "half"
    assert other.asked == []


async def test_what_describes_a_model_is_not_left_to_chance(mesh: TrafficMesh) -> None:
    predictor = VersionedPredictor(("1", "2"))
    await mesh.serve(predictor, "iris")
    await apply_to_both(
        mesh,
        TrafficSpec(canary=Canary(model_version="2", percent=99), rules=[RouteRule(header="x-new", model_version="2")]),
    )

    async def version(path: str, headers: Headers | None = None) -> str:
        answer: httpx.Response = await mesh.http.get(path, headers=headers)
        return str(answer.raise_for_status().headers[SERVED_BY_HEADER])

    assert {await version("/v2/models/iris") for _ in range(5)} == {"iris/1"}
    assert await version("/v2/models/iris", {"x-new": ""}) == "iris/2"
    assert await version("/v2/models/iris/config", {"x-new": ""}) == "iris/2"
    assert await version("/v2/models/iris/versions/2") == "iris/2"

"""A finished exchange becomes one flat record, whatever was asked."""

from __future__ import annotations

import orjson

from gateway.exchange import Exchange, Recorder
from gateway.prediction_record import record_of
from mesh.errors import DeadlineExceeded
from mesh.oip import open_inference_pb2 as oip
from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm


def exchange() -> Exchange:
    recorder = Recorder([], max_payload_bytes=10_000, clock=lambda: 2.0, wall_clock=lambda: 0.25)
    with recorder.exchange("openai", "/v1/completions") as made:
        made.request_id, made.deployment = "r-1", "chat"
    return made


def test_record_without_a_call_says_what_failed() -> None:
    failed = exchange()
    failed.fail(DeadlineExceeded("too late"))

    assert record_of(failed) == {
        "request_id": "r-1",
        "time": "1970-01-01T00:00:00.250000+00:00",
        "protocol": "openai",
        "route": "/v1/completions",
        "deployment": "chat",
        "model": None,
        "status": "DEADLINE_EXCEEDED",
        "error": "too late",
        "trace_id": None,
        "timings": {"total_s": 0.0},
    }


def test_first_generation_stands_at_the_top_and_the_others_beside_it() -> None:
    done = exchange()
    for text in ("a", "b", "c"):
        generation = done.begin_generation(lm.GenerateRequest(text=text))
        start = lm.GenerationStart(model_name="chat", model_version="1", model_digest="ab")
        generation.observe(lm.GenerateResponse(start=start, text=text.upper()))

    record = record_of(done)

    assert record["model"] == {"name": "chat", "version": "1", "digest": "ab"}
    assert (record["prompt"], record["output"]["text"]) == ({"text": "a"}, "A")
    assert [one["output"]["text"] for one in record["other_generations"]] == ["B", "C"]
    assert record["timings"]["total_s"] == 0.0
    assert orjson.loads(orjson.dumps(record)) == record


def test_tensor_calls_have_names_and_shapes_and_no_data() -> None:
    done = exchange()
    request = oip.ModelInferRequest(id="i", inputs=[{"name": "x", "datatype": "FP32", "shape": [2, 3]}])
    response = oip.ModelInferResponse(model_name="iris", model_version="2")
    done.add_infer(request.SerializeToString(), response.SerializeToString())
    done.add_infer(b"\xff\xff", None)

    record = record_of(done)

    inputs = [{"name": "x", "datatype": "FP32", "shape": [2, 3]}]
    assert record["tensor_calls"] == [
        {"id": "i", "inputs": inputs, "outputs": []},
        {"id": None, "inputs": None, "outputs": None},
    ]
    assert record["model"] == {"name": "iris", "version": "2", "digest": None}


def test_texts_of_a_language_model_behind_plain_oip_are_prompt_and_output() -> None:
    done = exchange()
    request = oip.ModelInferRequest()
    prompt = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    prompt.contents.bytes_contents.append(b"Once")
    done.add_infer(request.SerializeToString(), None)
    for piece in (b"upon ", b"a time"):
        response = oip.ModelInferResponse(model_name="chat", model_version="1")
        output = response.outputs.add(name="text_output", datatype="BYTES", shape=[1])
        output.contents.bytes_contents.append(piece)
        done.add_infer(None, response.SerializeToString())

    record = record_of(done)

    assert (record["prompt"], record["output"]) == ({"text": "Once"}, {"text": "upon a time"})
    assert record["num_tensor_calls"] == 3


def test_calls_of_a_long_stream_are_counted_and_not_all_shown() -> None:
    done = exchange()
    for _ in range(100):
        done.add_infer(b"", None)

    record = record_of(done)

    assert (len(record["tensor_calls"]), record["num_tensor_calls"]) == (16, 100)


def test_explanations_have_method_targets_and_cost() -> None:
    done = exchange()
    done.add_explain(
        explain_pb2.ExplainResponse(
            model_name="iris", model_version="1", method="shapley", predictor_calls=9, explanations=[{"target": "0"}]
        )
    )
    done.add_explain(None)

    assert record_of(done)["explain_calls"] == [
        {"method": "shapley", "predictor_calls": 9, "targets": ["0"]},
        {"method": None, "predictor_calls": None, "targets": None},
    ]

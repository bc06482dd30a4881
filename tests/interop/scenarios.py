"""What every foreign client must see, as data: the one list that all drivers run, each as much of it as its client can.

A scenario is steps, a step one call with what is expected of it. Values are as in drivers/driver.py. A status is
written as gRPC's name. What a client is and how it calls is not known here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any  # values of scenarios are JSON

import numpy as np

from tests.interop.expectations import AtLeast, Contains, Includes

Json = Mapping[str, Any]

# All models that a mesh must serve for the scenarios; `spare` is an identity that is unloaded and loaded again.
MODELS = ("identity", "countdown", "spare", "iris", "smollm2")
SETOSA, VIRGINICA = [5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]

# Values that are easily broken on the way: the ends of each range, what a double cannot hold, text that is not ASCII.
VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 2**16 - 1],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [str(2**53 + 1), str(2**64 - 1)],
    "INT8": [-128, 127],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [str(-(2**63)), str(2**53 + 1)],
    "FP16": [0.5, -65504.0],
    "BF16": [1.5, -3.0],
    "FP32": [float(np.float32(0.1)), float(np.float32(3.4e38))],
    "FP64": [0.1, 5e-324],
    "BYTES": ["ünïcode".encode().decode("latin-1"), ""],
}
RAW_ONLY = ("FP16", "BF16")
LARGE = 4 << 20  # FP32 elements: 16 MiB


@dataclass(frozen=True)
class Step:
    """expected: a part of what is seen, or `error`. eventually: asked again until exactly this is seen."""

    call: str
    arguments: Json = field(default_factory=dict)
    expected: Json = field(default_factory=dict)
    eventually: Json | None = None


@dataclass(frozen=True)
class Scenario:
    """`name` says what must be so."""

    name: str
    steps: tuple[Step, ...]

    def to_json(self) -> dict[str, Any]:
        """What a driver needs of it."""
        return {
            "name": self.name,
            "steps": [
                {"call": step.call, "arguments": dict(step.arguments)}
                | ({} if step.eventually is None else {"eventually": dict(step.eventually)})
                for step in self.steps
            ],
        }


def tensor(name: str, datatype: str, shape: Sequence[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def infer(model: str, *inputs: Json, form: str = "any", **more: Any) -> dict[str, Any]:
    """Arguments of an `infer` step. form: `binary` (raw, the binary extension), `explicit` (typed, JSON), or `any`."""
    return {"model": model, "inputs": list(inputs), "form": form, **more}


def output(datatype: str, shape: Sequence[int], data: Any) -> dict[str, Any]:
    return {"datatype": datatype, "shape": list(shape), "data": data}


def one(name: str, call: str, arguments: Json | None = None, **expected: Any) -> Scenario:
    return Scenario(name, (Step(call, arguments or {}, expected),))


INT32 = tensor("int32_in", "INT32", [1, 2], [7, -7])
INT32_OUT = output("INT32", [1, 2], [7, -7])
IRIS_ROWS = tensor("input", "FP64", [2, 4], SETOSA + VIRGINICA)


def all_scenarios() -> list[Scenario]:
    """Every scenario; the names are unique."""
    return [
        *_about_the_server(),
        *_about_models(),
        *_datatypes(),
        *_requests(),
        *_sizes(),
        *_bad_requests(),
        *_bad_messages(),
        *_streams(),
        *_repository(),
        *_rest(),
    ]


def _about_the_server() -> list[Scenario]:
    return [
        one("the server is live", "server_live", live=True),
        one("the server is ready", "server_ready", ready=True),
        one("the server says its extensions", "server_metadata", extensions=Includes("model_repository", "statistics")),
        one("no shared memory is registered", "shared_memory_status", regions=0),
        one("shared memory is refused", "register_shared_memory", error="UNIMPLEMENTED"),
    ]


def _about_models() -> list[Scenario]:
    iris = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [-1, 4]}], "versions": ["1"]}
    return [
        one("a loaded model is ready", "model_ready", {"model": "iris"}, ready=True),
        one("a version that is served is ready", "model_ready", {"model": "iris", "version": "1"}, ready=True),
        one("an unknown model is not ready", "model_ready", {"model": "nobody"}, ready=False),
        one("an unknown version is not ready", "model_ready", {"model": "iris", "version": "99"}, ready=False),
        one("metadata says what a model takes", "model_metadata", {"model": "iris"}, **iris),
        one("metadata of a version", "model_metadata", {"model": "iris", "version": "1"}, **iris),
        one("no metadata of an unknown model", "model_metadata", {"model": "nobody"}, error="NOT_FOUND"),
        one(
            "no metadata of an unknown version",
            "model_metadata",
            {"model": "iris", "version": "99"},
            error="NOT_FOUND",
        ),
        one("configuration says the batch size", "model_config", {"model": "identity"}, max_batch_size=8),
        one("configuration says what is decoupled", "model_config", {"model": "countdown"}, decoupled=True),
        one("no configuration of an unknown model", "model_config", {"model": "nobody"}, error="NOT_FOUND"),
        Scenario(
            "statistics count what was inferred",
            (
                Step("infer", infer("identity", INT32, outputs=["int32_out"])),
                Step("statistics", {"model": "identity"}, {"success": AtLeast(1)}),
            ),
        ),
        one("statistics of all models", "statistics", {"model": ""}, models=Includes("iris", "identity")),
        one("no statistics of an unknown model", "statistics", {"model": "nobody"}, error="NOT_FOUND"),
    ]


def _datatypes() -> list[Scenario]:
    scenarios = []
    for datatype, values in VALUES.items():
        for form in ("binary", "explicit"):
            name = datatype.lower()
            arguments = infer(
                "identity", tensor(f"{name}_in", datatype, [1, 2], values), form=form, outputs=[f"{name}_out"]
            )
            expected = {f"{name}_out": output(datatype, [1, 2], values)}
            scenarios.append(one(f"{datatype} comes back as it went, {form}", "infer", arguments, outputs=expected))
    octets = ["\x00\xff\x80", "a" * 300]
    arguments = infer("identity", tensor("bytes_in", "BYTES", [2, 1], octets), outputs=["bytes_out"])
    expected = {"bytes_out": output("BYTES", [2, 1], octets)}
    return [*scenarios, one("BYTES need not be text", "infer", arguments, outputs=expected)]


def _requests() -> list[Scenario]:
    both = [INT32, tensor("fp32_in", "FP32", [1, 1], [2.5])]
    return [
        one(
            "iris is classified",
            "infer",
            infer("iris", IRIS_ROWS, outputs=["label"]),
            outputs={"label": output("INT64", [2], ["0", "2"])},
        ),
        one("an id comes back", "infer", infer("identity", INT32, outputs=["int32_out"], id="r-7"), id="r-7"),
        one(
            "the version that ran is said",
            "infer_version",
            infer("identity", INT32, outputs=["int32_out"]),
            version="1",
        ),
        one(
            "a version can be asked for",
            "infer",
            infer("identity", INT32, outputs=["int32_out"], version="1"),
            version="1", outputs={"int32_out": INT32_OUT},
        ),
        one(
            "requested outputs come in their order",
            "infer",
            infer("identity", *both, outputs=["int32_out", "fp32_out"]),
            order=["int32_out", "fp32_out"],
        ),
        one("all outputs come when none is named", "infer", infer("iris", IRIS_ROWS), order=Includes("label")),
        one(
            "unknown parameters of any type do no harm",
            "infer",
            infer("identity", INT32, outputs=["int32_out"], parameters={"a": True, "b": 7, "c": "text"}),
            outputs={"int32_out": INT32_OUT},
        ),
        one(
            "a data frame goes as a tensor a column",
            "infer_frame",
            {"model": "identity", "columns": {"int64_in": [1, 2, 3], "fp64_in": [0.1, 0.2, 0.3]}},
            columns={"int64": [1, 2, 3], "fp64": [0.1, 0.2, 0.3]},
        ),
        *(
            one(
                f"{algorithm} is understood",
                "infer",
                infer("identity", INT32, outputs=["int32_out"], compression=algorithm),
                outputs={"int32_out": INT32_OUT},
            )
            for algorithm in ("gzip", "deflate")
        ),
        one("each of many requests gets its own answer", "infer_many", {"model": "identity", "count": 64}, right=64),
    ]  # fmt: skip


def _sizes() -> list[Scenario]:
    rows = [[row, -row] for row in range(8)]
    batch = tensor("int32_in", "INT32", [8, 2], [value for row in rows for value in row])
    large = hashlib.sha256(np.arange(LARGE, dtype="<f4").tobytes()).hexdigest()
    return [
        one(
            "a full batch is taken",
            "infer",
            infer("identity", batch, outputs=["int32_out"]),
            outputs={"int32_out": output("INT32", [8, 2], batch["data"])},
        ),
        one(
            "a batch of nothing is taken",
            "infer",
            infer("identity", tensor("int32_in", "INT32", [0, 2], []), outputs=["int32_out"]),
            outputs={"int32_out": output("INT32", [0, 2], [])},
        ),
        one(
            "16 MiB come back as they went",
            "infer",
            infer("identity", tensor("fp32_in", "FP32", [1, LARGE], {"arange": LARGE}), outputs=["fp32_out"]),
            outputs={"fp32_out": output("FP32", [1, LARGE], {"sha256": large})},
        ),
    ]


def _bad_requests() -> list[Scenario]:
    def refused(name: str, arguments: Json, error: str = "INVALID_ARGUMENT") -> Scenario:
        good = infer("identity", INT32, outputs=["int32_out"])
        # The second step: a bad request must not harm the next one on the same connection.
        return Scenario(
            f"refused: {name}",
            (Step("infer", arguments, {"error": error}), Step("infer", good, {"outputs": {"int32_out": INT32_OUT}})),
        )

    too_many = tensor("int32_in", "INT32", [9, 1], list(range(9)))
    return [
        refused("an unknown model", infer("nobody", INT32), "NOT_FOUND"),
        refused("an unknown version", infer("identity", INT32, version="99"), "NOT_FOUND"),
        refused("an input with another dimension", infer("iris", tensor("input", "FP64", [1, 3], [1.0, 2.0, 3.0]))),
        refused("an input of another rank", infer("iris", tensor("input", "FP64", [4], SETOSA))),
        refused("an input of another datatype", infer("iris", tensor("input", "INT32", [1, 4], [1, 2, 3, 4]))),
        refused("an unknown input", infer("iris", tensor("inputs", "FP64", [1, 4], SETOSA))),
        refused("an input that is given twice", infer("identity", INT32, INT32)),
        refused("an unknown output", infer("identity", INT32, outputs=["int32"])),
        refused("a batch that is too large", infer("identity", too_many)),
        refused("batches of different sizes", infer("identity", INT32, tensor("int8_in", "INT8", [2, 1], [1, 2]))),
    ]


def _bad_messages() -> list[Scenario]:
    """Requests that only a client can send that lets its user fill the message."""

    def refused(name: str, *inputs: Json, error: str = "INVALID_ARGUMENT", **more: Any) -> Scenario:
        message = {"model_name": "identity", "inputs": list(inputs), **more}
        good = {
            "model_name": "identity",
            "id": "next",
            "inputs": [wire("INT32", [1, 1], int_contents=[5])],
            "outputs": [{"name": "int32_out"}],
        }
        return Scenario(
            f"refused: {name}",
            (
                Step("message", {"message": message}, {"error": error}),
                Step("message", {"message": good}, {"id": "next"}),
            ),
        )

    def wire(datatype: str, shape: Sequence[int], **contents: Any) -> dict[str, Any]:
        described: dict[str, Any] = {"name": f"{datatype.lower()}_in", "datatype": datatype, "shape": list(shape)}
        return described | ({"contents": contents} if contents else {})

    return [
        refused("both raw and typed contents", wire("INT32", [1, 1], int_contents=[1]), raw_input_contents=["AQ=="]),
        refused("more raw contents than inputs", wire("INT32", [1, 1]), raw_input_contents=["AQAAAA==", ""]),
        refused("raw bytes that are too few", wire("INT32", [1, 2]), raw_input_contents=["AQAAAA=="]),
        refused("raw bytes that are too many", wire("INT32", [1, 1]), raw_input_contents=["AQAAAAEAAAA="]),
        refused("elements that are too few", wire("INT32", [1, 2], int_contents=[1])),
        refused("contents of another type", wire("INT32", [1, 1], fp32_contents=[1.0])),
        refused("contents of two types", wire("INT32", [1, 1], int_contents=[1], fp32_contents=[1.0])),
        refused("no contents at all", wire("INT32", [1, 1])),
        refused("a number beyond INT8", wire("INT8", [1, 1], int_contents=[128])),
        refused("a number beyond UINT16", wire("UINT16", [1, 1], uint_contents=[65536])),
        refused("a datatype in lower case", {**wire("INT32", [1, 1], int_contents=[1]), "datatype": "int32"}),
        refused("an unknown datatype", {**wire("INT32", [1, 1], int_contents=[1]), "datatype": "INT128"}),
        refused("FP16 in typed contents", wire("FP16", [1, 1], fp32_contents=[1.0])),
        refused("a negative dimension", wire("INT32", [1, -1], int_contents=[1])),
        refused("a shape whose product overflows", wire("INT32", [2**62, 16], int_contents=[1])),
        refused("no inputs"),
        refused("BYTES whose length points past the end", wire("BYTES", [1, 1]), raw_input_contents=["CQAAAGE="]),
        refused("BYTES with bytes left over", wire("BYTES", [1, 1]), raw_input_contents=["AQAAAGFi"]),
        refused("BYTES with elements missing", wire("BYTES", [1, 2]), raw_input_contents=["AQAAAGE="]),
        refused(
            "a version that is none", wire("INT32", [1, 1], int_contents=[1]), model_version="no version!",
        ),
    ]  # fmt: skip


def _streams() -> list[Scenario]:
    good = infer("identity", INT32, outputs=["int32_out"])
    bad = infer("identity", tensor("int32_in", "INT32", [4], [1, 2, 3, 4]))
    count = tensor("int64_in", "INT64", [1, 1], ["3"])
    return [
        one(
            "a stream goes on after a bad request",
            "stream",
            {"requests": [{**good, "id": "a"}, {**bad, "id": "b"}, {**good, "id": "c"}], "answers": 3},
            answers=[{"id": "a"}, {"error": Contains("shape")}, {"id": "c", "outputs": {"int32_out": INT32_OUT}}],
        ),
        one(
            "a decoupled model answers as often as it likes",
            "stream",
            {"requests": [infer("countdown", count, outputs=["int64_out"], id="n")], "answers": 3},
            answers=[{"id": "n", "outputs": {"int64_out": output("INT64", [1, 1], [str(left)])}} for left in (3, 2, 1)],
        ),
        one(
            "a language model streams text, and says which answer is the last",
            "stream_text",
            {"model": "smollm2", "prompt": "Two plus two is", "max_tokens": 8},
            pieces=AtLeast(2),
            is_whole=True,
        ),
    ]


def _repository() -> list[Scenario]:
    spare = infer("spare", INT32, outputs=["int32_out"])
    return [
        one("the index has all models", "index", models=Includes(*MODELS)),
        one("load of an unknown model", "load", {"model": "nobody"}, error="NOT_FOUND"),
        one("unload of an unknown model", "unload", {"model": "nobody"}, error="NOT_FOUND"),
        Scenario(
            "a model is unloaded and loaded again",
            (
                Step("unload", {"model": "spare"}),
                Step("model_ready", {"model": "spare"}, eventually={"ready": False}),
                Step("infer", spare, {"error": "UNAVAILABLE"}),
                Step("load", {"model": "spare"}),
                Step("model_ready", {"model": "spare"}, eventually={"ready": True}),
                Step("infer", spare, {"outputs": {"int32_out": INT32_OUT}}),
            ),
        ),
    ]


def _rest() -> list[Scenario]:
    """What only clients of KServe's V1 protocol can ask, and mixtures of JSON and binary that only HTTP has."""
    return [
        one(
            "V1 predicts instances",
            "predict",
            {"model": "iris", "body": {"instances": [SETOSA, VIRGINICA]}},
            predictions=[{"label": 0}, {"label": 2}],
        ),
        one("V1 explains", "explain", {"model": "iris", "body": {"instances": [SETOSA]}}, explanations=1),
        one("V1 of an unknown model", "predict", {"model": "nobody", "body": {"instances": []}}, error="NOT_FOUND"),
        one("V1 without instances", "predict", {"model": "iris", "body": {}}, error="INVALID_ARGUMENT"),
        *(
            one(
                f"a request in {asked} is answered in {answered}",
                "infer",
                infer("identity", INT32, outputs=["int32_out"], form=forms[asked], answer=forms[answered]),
                outputs={"int32_out": INT32_OUT},
            )
            for forms in ({"JSON": "explicit", "binary": "binary"},)
            for asked, answered in (("JSON", "binary"), ("binary", "JSON"))
        ),
    ]  # fmt: skip

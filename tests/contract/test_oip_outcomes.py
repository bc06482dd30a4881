"""The Open Inference Protocol's outcomes over gRPC, as one table: what each request gets, against a real predictor.

No malformed request is ever OK, INTERNAL or UNKNOWN, none hangs or makes memory, and the next request on the same
connection works. All rows go to one process over one connection.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.tensors import DATATYPES, Tensor, decode_response, encode_request
from tests.contract.outcome_predictor import running_outcome_predictor

DEADLINE_S = 30.0
MIB = 1 << 20
Infer = oip.ModelInferRequest

TYPED_FIELDS: dict[str, list[Any]] = {
    "bool_contents": [True, False],
    "int_contents": [1, 0],
    "int64_contents": [1, 0],
    "uint_contents": [1, 0],
    "uint64_contents": [1, 0],
    "fp32_contents": [1.0, 0.0],
    "fp64_contents": [1.0, 0.0],
    "bytes_contents": [b"a", b""],
}
VALUES = np.array([[1, 0]])


@dataclass
class Server:
    """The predictor's process and one connection to it."""

    channel: grpc.Channel
    pid: int

    @property
    def stub(self) -> GRPCInferenceServiceStub:
        return GRPCInferenceServiceStub(self.channel)

    def outcome(self, request: Infer, **fields: Any) -> tuple[str, str, oip.ModelInferResponse | None]:
        """Status, sentence, and the answer to a request."""
        try:
            return "OK", "", self.stub.ModelInfer(request, timeout=DEADLINE_S, **fields)
        except grpc.RpcError as error:
            return error.code().name, error.details() or "", None

    def assert_works(self) -> None:
        """The next request on the connection is answered, and rightly."""
        response = self.stub.ModelInfer(good(), timeout=DEADLINE_S)
        assert decode_response(response)["fp32_out"].array.tolist() == [[1.0, 2.0]]

    def peak_mib(self) -> float:
        [peak_kib] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        return int(peak_kib) / 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with running_outcome_predictor(tmp_path_factory.mktemp("outcomes")) as predictor:
        with grpc.insecure_channel(predictor.addresses["grpc_address"], options) as channel:
            yield Server(channel, predictor.process.pid)


def good(**fields: Any) -> Infer:
    return raw([1, 2], struct.pack("<2f", 1, 2), **fields)


def raw(
    shape: list[int], *contents: bytes, datatype: str = "FP32", model_name: str = "identity", **fields: Any
) -> Infer:
    """A request with one raw input; more contents are left over."""
    request = Infer(model_name=model_name, raw_input_contents=contents, **fields)
    request.inputs.add(name=f"{datatype.lower()}_in", datatype=datatype, shape=shape)
    return request


def typed(shape: list[int], datatype: str = "FP32", **contents: Any) -> Infer:
    request = Infer(model_name="identity")
    request.inputs.add(
        name=f"{datatype.lower()}_in", datatype=datatype, shape=shape, contents=oip.InferTensorContents(**contents)
    )
    return request


def changed(change: Callable[[Infer], object], request: Infer | None = None) -> Infer:
    request = request or good()
    change(request)
    return request


def length(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def iris(shape: list[int], num_values: int) -> Infer:
    request = Infer(model_name="iris", raw_input_contents=[bytes(8 * num_values)])
    request.inputs.add(name="input", datatype="FP64", shape=shape)
    return request


def two_inputs(first: tuple[str, list[int], bytes], second: tuple[str, list[int], bytes]) -> Infer:
    request = Infer(model_name="identity", raw_input_contents=[first[2], second[2]])
    for name, shape, _ in (first, second):
        request.inputs.add(name=name, datatype=name.removesuffix("_in").upper(), shape=shape)
    return request


# Row of the contract's table → request, and a part of the sentence that says what is wrong.
NOT_FOUND: dict[str, tuple[Infer, str]] = {
    "unknown model": (good(model_name="nobody"), "'nobody'"),
    "no model's name": (good(model_name=""), "model"),
    "unknown version": (good(model_version="7"), "no version 7"),
    "a version beyond all numbers": (good(model_version="9" * 100), "no version"),
}
INVALID: dict[str, tuple[Infer, str]] = {
    "a version that is a word": (good(model_version="newest"), "'newest' is no version"),
    "a version below zero": (good(model_version="-1"), "'-1' is no version"),
    "a version in other digits": (good(model_version="\N{ARABIC-INDIC DIGIT ONE}"), "is no version"),
    "both raw and contents": (
        changed(lambda r: r.inputs[0].contents.fp32_contents.extend([1, 2])),
        "both raw and typed contents",
    ),
    "more raw entries than inputs": (raw([1, 2], bytes(8), bytes(8)), "2 raw input contents for 1 input"),
    "fewer raw entries than inputs": (
        changed(lambda r: r.inputs.add(name="int64_in", datatype="INT64", shape=[1, 2])),
        "1 raw input contents for 2 inputs",
    ),
    "raw without inputs": (Infer(model_name="identity", raw_input_contents=[b"x"]), "1 raw input contents for 0"),
    "raw too short": (raw([1, 2], bytes(7)), "takes 8 raw bytes; got 7"),
    "raw too long": (raw([1, 2], bytes(9)), "takes 8 raw bytes; got 9"),
    "raw empty": (raw([1, 2], b""), "takes 8 raw bytes; got 0"),
    "typed too few": (typed([1, 2], fp32_contents=[1]), "takes 2 elements; got 1"),
    "typed too many": (typed([1, 2], fp32_contents=[1, 2, 3]), "takes 2 elements; got 3"),
    "typed field of another datatype": (typed([1, 2], fp64_contents=[1, 2]), "takes fp32_contents, not fp64_contents"),
    "two typed fields": (typed([1, 2], fp32_contents=[1, 2], int_contents=[1]), "one may be set"),
    "no data at all": (typed([1, 2]), "takes 2 elements; got 0"),
    "FP16 as typed contents": (typed([1, 2], "FP16", fp32_contents=[1, 2]), "travels only as raw"),
    "BF16 as typed contents": (typed([1, 2], "BF16", fp32_contents=[1, 2]), "travels only as raw"),
    "datatype unknown": (raw([1, 2], bytes(2), datatype="FP8"), "datatype 'FP8'"),
    "datatype empty": (changed(lambda r: setattr(r.inputs[0], "datatype", "")), "datatype ''"),
    "datatype in lower case": (changed(lambda r: setattr(r.inputs[0], "datatype", "fp32")), "datatype 'fp32'"),
    "datatype not the model's": (
        changed(lambda r: setattr(r.inputs[0], "datatype", "INT32")),
        "datatype INT32; the model takes FP32",
    ),
    "rank too low": (raw([2], bytes(8)), "shape [2]; the model takes [-1, 2]"),
    "rank too high": (raw([1, 2, 1], bytes(8)), "shape [1, 2, 1]; the model takes [-1, 2]"),
    "no shape at all": (raw([], bytes(4)), "shape []; the model takes [-1, 2]"),
    "rank of thousands": (raw([1] * 5000, bytes(4)), "5000 dimensions; at most 32"),
    "dimension not the model's": (raw([1, 3], bytes(12)), "shape [1, 3]"),
    "dimension of zero where it is not free": (raw([1, 0], b""), "shape [1, 0]"),
    "negative dimension": (raw([-1, 2], bytes(8)), "negative dimension -1"),
    "two negative dimensions, whose product fits": (raw([-1, -2], bytes(8)), "negative dimension -1"),
    "product overflow": (raw([2**62, 16], bytes(8)), "more than 2^63-1 bytes"),
    "product that overflows to what fits": (raw([2**32, 2**32, 2], bytes(8)), "more than 2^63-1 bytes"),
    "overflow hidden by a zero": (raw([0, 2**62, 2**62], b""), "more than 2^63-1 bytes"),
    "a shape of tebibytes, raw": (raw([2**38, 2], bytes(8)), "raw bytes; got 8"),
    "a shape of tebibytes, typed": (typed([2**38, 2], fp32_contents=[1, 2]), "elements; got 2"),
    "a shape of tebibytes of BYTES": (raw([2**38, 2], length(0, 0), datatype="BYTES"), "too few for"),
    "batch above the maximum": (raw([9, 2], bytes(72)), "batch of 9; the model takes at most 8"),
    "batch above a real model's maximum": (iris([4097, 4], 4 * 4097), "batch of 4097; the model takes at most 4096"),
    "features not a real model's": (iris([1, 3], 3), "shape [1, 3]; the model takes [-1, 4]"),
    "batches of different sizes": (
        two_inputs(("fp32_in", [1, 2], bytes(8)), ("int64_in", [2, 2], bytes(32))),
        "batches of different sizes",
    ),
    "batch of nothing where the shape is fixed": (
        changed(lambda r: setattr(r.inputs[0], "name", "x"), raw([0, 3], b"", model_name="fixed")),
        "shape [0, 3]; the model takes [2, 3]",
    ),
    "input unknown": (changed(lambda r: setattr(r.inputs[0], "name", "nobody")), "no input 'nobody'"),
    "input without a name": (changed(lambda r: setattr(r.inputs[0], "name", "")), "no input ''"),
    "input missing": (
        changed(lambda r: setattr(r.inputs[0], "name", "other"), iris([1, 4], 4)),
        "no input 'other'; it has 'input'",
    ),
    "input given twice": (two_inputs(*[("fp32_in", [1, 2], bytes(8))] * 2), "'fp32_in' is given twice"),
    "no inputs": (Infer(model_name="identity"), "no inputs"),
    "no inputs for a real model": (Infer(model_name="iris"), "input 'input' is missing"),
    "requested output unknown": (changed(lambda r: r.outputs.add(name="nobody")), "no output 'nobody'"),
    "requested output without a name": (changed(lambda r: r.outputs.add()), "no output ''"),
    "BYTES: fewer elements than the shape": (raw([1, 2], length(0), datatype="BYTES"), "too few for 2 BYTES elements"),
    "BYTES: ends in a length": (raw([1, 2], length(1) + b"abcd"[:4], datatype="BYTES"), "ends after 1 of 2"),
    "BYTES: length past the end": (raw([1, 2], length(0, 9), datatype="BYTES"), "element 1 says 9 bytes; 0 are left"),
    "BYTES: length of 4 GiB": (raw([1, 2], length(2**32 - 1, 0), datatype="BYTES"), "says 4294967295 bytes"),
    "BYTES: trailing bytes": (raw([1, 2], length(0, 0) + b"x", datatype="BYTES"), "1 bytes after its 2 BYTES"),
    "BYTES: typed, fewer elements": (typed([1, 2], "BYTES", bytes_contents=[b"a"]), "takes 2 elements; got 1"),
    **{
        f"{datatype}: {value}": (
            typed([1, 2], datatype, **{field: [0, value]}),
            f"holds {value}; {datatype} takes",
        )
        for datatype, field, values in (
            ("INT8", "int_contents", (-129, 128)),
            ("INT16", "int_contents", (-32769, 32768)),
            ("UINT8", "uint_contents", (256,)),
            ("UINT16", "uint_contents", (65536,)),
        )
        for value in values
    },
}
OTHER: dict[str, tuple[Infer, str, str]] = {
    "model not ready": (good(model_name="broken"), "UNAVAILABLE", "model 'broken' is unavailable"),
    "unexpected failure inside the model": (raw([1, 2], struct.pack("<2f", 13, 0)), "INTERNAL", "request id"),
}
OK: dict[str, Infer] = {
    "a good request": good(),
    "empty id": good(id=""),
    "the version by name": good(model_version="1"),
    "raw, and contents that are set and hold nothing": changed(lambda r: r.inputs[0].contents.SetInParent()),
    "empty BYTES elements, raw": raw([1, 2], length(0, 0), datatype="BYTES"),
    "empty BYTES elements, typed": typed([1, 2], "BYTES", bytes_contents=[b"", b""]),
    "BYTES that are no text": raw([1, 2], length(1) + b"\xff" + length(2) + b"\x00\x80", datatype="BYTES"),
    "BOOL bytes beyond 0 and 1": raw([1, 2], b"\x02\xff", datatype="BOOL"),
    "batch of nothing, raw": raw([0, 2], b""),
    "batch of nothing, typed": typed([0, 2]),
    "batch of nothing for a real model": iris([0, 4], 0),
    "the largest batch": raw([8, 2], bytes(64)),
    "an output asked for twice": changed(lambda r: [r.outputs.add(name="fp32_out") for _ in range(2)]),
}
MALFORMED = {**{name: ("NOT_FOUND", *row) for name, row in NOT_FOUND.items()}} | {
    name: ("INVALID_ARGUMENT", *row) for name, row in INVALID.items()
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_refused_with_a_sentence_and_the_next_one_works(server: Server, case: str) -> None:
    expected, request, sentence = MALFORMED[case]

    code, details, _ = server.outcome(request)

    assert (code, sentence in details) == (expected, True), f"{code}: {details}"
    assert len(details) <= 2048
    server.assert_works()


@pytest.mark.parametrize("case", OTHER)
def test_a_failure_that_is_not_the_client_s(server: Server, case: str) -> None:
    request, expected, sentence = OTHER[case]

    code, details, _ = server.outcome(request)

    assert (code, sentence in details) == (expected, True), f"{code}: {details}"
    assert "secret" not in details
    server.assert_works()


@pytest.mark.parametrize("case", OK)
def test_an_unusual_request_is_answered(server: Server, case: str) -> None:
    code, details, response = server.outcome(OK[case])

    assert code == "OK", details
    assert response is not None
    for tensor in decode_response(response).values():
        assert len(tensor.array) == OK[case].inputs[0].shape[0]


@pytest.mark.parametrize("as_raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_goes_in_and_out(server: Server, datatype: str, as_raw: bool) -> None:
    values = (
        np.array([[b"", b"\xff"]], dtype=object) if datatype == "BYTES" else VALUES.astype(DATATYPES[datatype].dtype)
    )
    request = Infer(model_name="identity", id="e", outputs=[{"name": f"{datatype.lower()}_out"}])
    encode_request(request, [Tensor(f"{datatype.lower()}_in", datatype, values)], raw=as_raw)

    _, details, response = server.outcome(request)

    assert response is not None, details
    [output] = response.outputs
    assert (output.datatype, list(output.shape), response.id) == (datatype, [1, 2], "e")
    assert bool(response.raw_output_contents) == (as_raw or datatype in ("FP16", "BF16"))
    assert decode_response(response)[output.name].array.tolist() == values.tolist()


@pytest.mark.parametrize("datatype", [name for name, each in DATATYPES.items() if each.contents_field])
def test_a_typed_field_carries_its_own_datatypes_only(server: Server, datatype: str) -> None:
    for field, values in TYPED_FIELDS.items():
        code, details, _ = server.outcome(typed([1, 2], datatype, **{field: values}))

        assert code == ("OK" if field == DATATYPES[datatype].contents_field else "INVALID_ARGUMENT"), (field, details)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BYTES"])
def test_raw_contents_are_of_exactly_the_datatype_s_size(server: Server, datatype: str) -> None:
    size_bytes = 2 * DATATYPES[datatype].size_bytes
    for difference, expected in ((-1, "INVALID_ARGUMENT"), (0, "OK"), (1, "INVALID_ARGUMENT")):
        code, details, _ = server.outcome(raw([1, 2], bytes(size_bytes + difference), datatype=datatype))

        assert code == expected, details


def test_numbers_at_the_ends_of_their_ranges_are_exact(server: Server) -> None:
    for datatype in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"):
        limits = np.iinfo(DATATYPES[datatype].dtype)
        field = DATATYPES[datatype].contents_field
        assert field is not None
        request = typed([1, 2], datatype, **{field: [limits.min, limits.max]})
        request.outputs.add(name=f"{datatype.lower()}_out")

        _, details, response = server.outcome(request)

        assert response is not None, details
        assert list(getattr(response.outputs[0].contents, field)) == [limits.min, limits.max]


def test_parameters_of_every_kind_are_taken_on_requests_inputs_and_outputs(server: Server) -> None:
    request = good(outputs=[{"name": "fp32_out"}])
    parameter = oip.InferParameter
    for parameters in (request.parameters, request.inputs[0].parameters, request.outputs[0].parameters):
        for kind, value in (
            ("bool", True),
            ("int64", -(2**63)),
            ("string", "é"),
            ("double", 1e308),
            ("uint64", 2**64 - 1),
        ):
            parameters[kind].CopyFrom(parameter(**{f"{kind}_param": value}))
        parameters["none"].SetInParent()

    code, details, response = server.outcome(request)

    assert code == "OK", details
    assert response is not None
    assert [output.name for output in response.outputs] == ["fp32_out"]


def test_16_mib_go_through_and_so_does_gzip(server: Server) -> None:
    contents = np.random.default_rng(0).integers(0, 256, 16 * MIB, dtype=np.uint8).tobytes()
    request = raw(
        [1, 2], length(len(contents)) + contents + length(0), datatype="BYTES", outputs=[{"name": "bytes_out"}]
    )

    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        _, details, response = server.outcome(request, compression=compression)

        assert response is not None, details
        assert response.raw_output_contents[0] == request.raw_input_contents[0]


def test_a_message_above_the_limit_is_refused_and_the_connection_works(server: Server) -> None:
    code, details, _ = server.outcome(raw([1, 2], length(65 * MIB) + bytes(65 * MIB) + length(0), datatype="BYTES"))

    assert code == "RESOURCE_EXHAUSTED", details
    server.assert_works()


@pytest.mark.parametrize(
    "encoding",
    [b"\xff" * 40, b"\x0a\x7f", good().SerializeToString()[:-3], b"\x0a\x02\xff\xfe", b"\xff" * 65536],
    ids=["nonsense", "cut off", "cut short", "a name that is no UTF-8", "large nonsense"],
)
@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_bytes_that_are_no_request_are_the_client_s_fault(server: Server, method: str, encoding: bytes) -> None:
    path = f"/inference.GRPCInferenceService/{method}"
    with pytest.raises(grpc.RpcError) as refusal:
        if method == "ModelInfer":
            server.channel.unary_unary(path)(encoding, timeout=DEADLINE_S)
        else:
            list(server.channel.stream_stream(path)(iter([encoding]), timeout=DEADLINE_S))

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    server.assert_works()


def test_every_malformed_request_is_a_message_in_a_stream_that_goes_on(server: Server) -> None:
    requests: list[Infer] = []
    for index, (_, request, _) in enumerate(MALFORMED.values()):
        bad = Infer.FromString(request.SerializeToString())
        bad.id = f"bad {index}"
        requests += (good(id=f"good {index}"), bad)

    answers = list(server.stub.ModelStreamInfer(iter(requests), timeout=DEADLINE_S))

    assert [answer.infer_response.id for answer in answers] == [request.id for request in requests]
    assert not any(answer.error_message for answer in answers[::2])
    for answer, (_, _, sentence) in zip(answers[1::2], MALFORMED.values(), strict=True):
        assert sentence in answer.error_message


def test_a_declared_size_that_is_not_there_makes_no_memory(server: Server) -> None:
    server.assert_works()
    before_mib = server.peak_mib()

    for rows in (2**20, 2**30, 2**40, 2**60):
        for datatype in DATATYPES:
            assert server.outcome(raw([rows, 2], b"12345678", datatype=datatype))[0] == "INVALID_ARGUMENT"
        assert server.outcome(typed([rows, 2], fp32_contents=[1, 2]))[0] == "INVALID_ARGUMENT"

    assert server.peak_mib() - before_mib < 8


def test_a_model_s_own_rpcs_know_what_does_not_exist(server: Server) -> None:
    for call, request_class in (
        (server.stub.ModelMetadata, oip.ModelMetadataRequest),
        (server.stub.ModelConfig, oip.ModelConfigRequest),
        (server.stub.ModelStatistics, oip.ModelStatisticsRequest),
    ):
        for name, version, expected in (
            ("nobody", "", "NOT_FOUND"),
            ("identity", "7", "NOT_FOUND"),
            ("identity", "x", "INVALID_ARGUMENT"),
            ("broken", "", "UNAVAILABLE"),
        ):
            with pytest.raises(grpc.RpcError) as refusal:
                call(request_class(name=name, version=version), timeout=DEADLINE_S)  # type: ignore[operator]
            assert refusal.value.code().name == expected  # type: ignore[attr-defined]


def test_readiness_is_a_yes_or_no_for_every_name_and_version(server: Server) -> None:
    for name, version, expected in (
        ("identity", "", True),
        ("identity", "1", True),
        ("identity", "7", False),
        ("identity", "x", False),
        ("nobody", "", False),
        ("", "", False),
        ("broken", "", False),
    ):
        ready = server.stub.ModelReady(oip.ModelReadyRequest(name=name, version=version), timeout=DEADLINE_S)
        assert ready.ready is expected


@pytest.mark.parametrize("field", ["model_name", "repository_name"], ids=["Triton", "KServe"])
def test_load_and_unload_in_both_dialects(server: Server, field: str) -> None:
    unloaded = server.stub.RepositoryModelUnload(
        oip.RepositoryModelUnloadRequest(**{field: "fixed"}), timeout=DEADLINE_S
    )
    assert not server.stub.ModelReady(oip.ModelReadyRequest(name="fixed")).ready
    loaded = server.stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(**{field: "fixed"}), timeout=DEADLINE_S)
    assert server.stub.ModelReady(oip.ModelReadyRequest(name="fixed")).ready

    assert (unloaded.model_name, unloaded.isUnloaded) == ("fixed", True)
    assert (loaded.model_name, loaded.isLoaded) == ("fixed", True)
    for call, request in (
        (server.stub.RepositoryModelLoad, oip.RepositoryModelLoadRequest(**{field: "nobody"})),
        (server.stub.RepositoryModelUnload, oip.RepositoryModelUnloadRequest(**{field: "nobody"})),
    ):
        with pytest.raises(grpc.RpcError) as refusal:
            call(request, timeout=DEADLINE_S)  # type: ignore[operator]
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


def test_the_configuration_has_what_clients_read(server: Server) -> None:
    def config(name: str) -> oip.ModelConfig:
        return server.stub.ModelConfig(oip.ModelConfigRequest(name=name, version="1"), timeout=DEADLINE_S).config

    real, fixed, countdown = config("iris"), config("fixed"), config("countdown")

    assert (real.name, real.platform, real.backend, real.max_batch_size) == ("iris", "sklearn_skops", "sklearn", 4096)
    assert [(each.name, each.data_type, list(each.dims)) for each in real.input] == [("input", oip.TYPE_FP64, [4])]
    assert real.HasField("dynamic_batching")
    assert not real.model_transaction_policy.decoupled
    assert (fixed.max_batch_size, list(fixed.input[0].dims), fixed.HasField("dynamic_batching")) == (0, [2, 3], False)
    assert countdown.model_transaction_policy.decoupled

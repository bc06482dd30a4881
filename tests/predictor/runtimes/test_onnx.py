"""The ONNX runtime: answers as ONNX Runtime itself and as the exported model do, for every datatype."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mesh.errors import CorruptArtifact, InvalidInput
from predictor.runtimes.base import Runtime
from predictor.runtimes.onnx import OnnxRuntime
from tests.predictor.runtimes.trained import loaded, network

FEATURES, TARGETS = load_iris(return_X_y=True)

Value = tuple[str, int, Sequence[int | str | None]]


def model(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[Value], outputs: Sequence[Value], weights: Sequence[Any] = ()
) -> onnx.ModelProto:
    sides = ([helper.make_tensor_value_info(*value) for value in side] for side in (inputs, outputs))
    graph = helper.make_graph(list(nodes), "graph", *sides, list(weights))
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("my.ops", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def identity(elem_type: int, shape: Sequence[int | str | None] = ("n", 2)) -> onnx.ModelProto:
    return model([helper.make_node("Identity", ["x"], ["y"])], [("x", elem_type, shape)], [("y", elem_type, shape)])


async def served(tmp_path: Path, proto: onnx.ModelProto, **options: str) -> Runtime:
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    return await loaded(OnnxRuntime(), tmp_path, **options)


async def test_an_exported_network_answers_as_pytorch_and_as_onnx_runtime_do(onnx_file: Path) -> None:
    runtime = await loaded(OnnxRuntime(), onnx_file)
    rows = FEATURES.astype(np.float32)

    given = (await runtime.infer({"x": rows}))["scores"]

    np.testing.assert_array_equal(given, onnxruntime.InferenceSession(onnx_file).run(None, {"x": rows})[0])
    np.testing.assert_allclose(given, network()(torch.from_numpy(rows)).detach().numpy(), atol=1e-6)
    assert runtime.metadata.inputs[0].shape == (-1, 4)
    assert runtime.metadata.max_batch_size == 4096
    await runtime.unload()


async def test_a_classifier_with_texts_as_labels_answers_as_scikit_learn_does(tmp_path: Path) -> None:
    library = LogisticRegression(max_iter=500).fit(FEATURES, np.array(["setosa", "versicolor", "virginica"])[TARGETS])
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", post_transform="SOFTMAX",
        classlabels_strings=list(library.classes_), coefficients=library.coef_.ravel().astype(np.float32),
        intercepts=library.intercept_.astype(np.float32),
    )  # fmt: skip
    outputs: list[Value] = [("label", TensorProto.STRING, ["n"]), ("scores", TensorProto.FLOAT, ["n", 3])]
    runtime = await served(tmp_path, model([node], [("x", TensorProto.FLOAT, ["n", 4])], outputs))

    given = await runtime.infer({"x": FEATURES.astype(np.float32)})

    assert given["label"].tolist() == [label.encode() for label in library.predict(FEATURES)]
    np.testing.assert_allclose(given["scores"], library.predict_proba(FEATURES), atol=1e-5)


@pytest.mark.parametrize(
    ("elem_type", "datatype", "dtype"),
    [
        (TensorProto.BOOL, "BOOL", "?"),
        (TensorProto.UINT8, "UINT8", "<u1"),
        (TensorProto.UINT16, "UINT16", "<u2"),
        (TensorProto.UINT32, "UINT32", "<u4"),
        (TensorProto.UINT64, "UINT64", "<u8"),
        (TensorProto.INT8, "INT8", "<i1"),
        (TensorProto.INT16, "INT16", "<i2"),
        (TensorProto.INT32, "INT32", "<i4"),
        (TensorProto.INT64, "INT64", "<i8"),
        (TensorProto.FLOAT16, "FP16", "<f2"),
        (TensorProto.BFLOAT16, "BF16", "<f4"),
        (TensorProto.FLOAT, "FP32", "<f4"),
        (TensorProto.DOUBLE, "FP64", "<f8"),
    ],
)
async def test_every_datatype_of_numbers_goes_in_and_out(
    tmp_path: Path, elem_type: int, datatype: str, dtype: str
) -> None:
    runtime = await served(tmp_path, identity(elem_type))
    array = np.array([[0, 1], [1, 0], [1, 1]], dtype=dtype)
    array.flags.writeable = False  # as one that is a view of a message

    given = (await runtime.infer({"x": array}))["y"]

    assert runtime.metadata.inputs[0].datatype == runtime.metadata.outputs[0].datatype == datatype
    assert given.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(given, array)


async def test_texts_go_in_and_out_as_bytes(tmp_path: Path) -> None:
    runtime = await served(tmp_path, identity(TensorProto.STRING))
    array = np.array([[b"", b"caf\xc3\xa9"], [b"\0a", b"b"]], dtype=object)

    given = (await runtime.infer({"x": array}))["y"]

    assert given.tolist() == array.tolist()
    with pytest.raises(InvalidInput, match="input 'x' has an element that is no UTF-8"):
        await runtime.infer({"x": np.array([[b"\xff", b""]], dtype=object)})


async def test_an_answer_outlives_the_model(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [("x", TensorProto.FLOAT, ["n"])],
        [("y", TensorProto.FLOAT, ["n"])],
    )
    runtime = await served(tmp_path, proto)
    given = (await runtime.infer({"x": np.arange(1 << 20, dtype=np.float32)}))["y"]

    await runtime.unload()
    del runtime

    assert not given.flags.owndata  # it stays where ONNX Runtime wrote it
    np.testing.assert_array_equal(given, 2 * np.arange(1 << 20, dtype=np.float32))


@pytest.mark.parametrize(
    ("first", "second", "options", "max_batch_size"),
    [
        ("n", "n", {}, 4096),
        (None, None, {}, 4096),
        ("n", "n", {"max_batch_size": "0"}, 0),
        ("n", "n", {"max_batch_size": "7"}, 7),
        ("n", "m", {}, 0),
        ("n", "m", {"max_batch_size": "5"}, 5),
        (1, 1, {}, 0),
        ("n", 1, {}, 0),
    ],
)
async def test_the_batch_is_the_first_dimension_where_all_have_it(
    tmp_path: Path, first: Any, second: Any, options: dict[str, str], max_batch_size: int
) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    proto = model([node], [("x", TensorProto.FLOAT, [first, 2])], [("y", TensorProto.FLOAT, [second, 2])])

    metadata = (await served(tmp_path, proto, **options)).metadata

    assert metadata.max_batch_size == max_batch_size
    assert metadata.inputs[0].shape == (first if isinstance(first, int) else -1, 2)


async def test_a_batch_of_nothing_gets_empty_outputs(onnx_file: Path) -> None:
    given = await (await loaded(OnnxRuntime(), onnx_file)).infer({"x": np.empty((0, 4), dtype=np.float32)})

    assert given["scores"].shape == (0, 3)


async def test_an_output_that_does_not_keep_the_batch_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
    proto = model([node], [("x", TensorProto.FLOAT, ["n", 2])], [("y", TensorProto.FLOAT, ["n", 2])])
    del proto.graph.value_info[:]

    with pytest.raises(CorruptArtifact, match=r"output 'y' has shape \[2, 2\] for a batch of 1.*max_batch_size 0"):
        await served(tmp_path, proto)


GATHER = model(
    [helper.make_node("Gather", ["x", "i"], ["y"], name="pick")],
    [("x", TensorProto.FLOAT, ["n", 2]), ("i", TensorProto.INT64, ["k"])],
    [("y", TensorProto.FLOAT, ["k", 2])],
)


async def test_what_an_operator_refuses_is_the_caller_s_error(tmp_path: Path) -> None:
    runtime = await served(tmp_path, GATHER)

    with pytest.raises(InvalidInput, match="cannot compute with these inputs: its node Gather pick fails"):
        await runtime.infer({"x": np.ones((2, 2), dtype=np.float32), "i": np.array([7])})
    good = await runtime.infer({"x": np.ones((2, 2), dtype=np.float32), "i": np.array([1])})

    assert good["y"].tolist() == [[1, 1]]


async def test_dimensions_of_one_name_must_have_one_size(tmp_path: Path) -> None:
    shape = ["n", "m"]
    proto = model(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [("a", TensorProto.FLOAT, shape), ("b", TensorProto.FLOAT, shape)],
        [("y", TensorProto.FLOAT, shape)],
    )
    runtime = await served(tmp_path, proto)

    with pytest.raises(InvalidInput, match="dimension 'm' is 3 in input 'a' and 2 in input 'b'"):
        await runtime.infer({"a": np.ones((1, 3), dtype=np.float32), "b": np.ones((1, 2), dtype=np.float32)})


def with_custom_operator() -> onnx.ModelProto:
    node = helper.make_node("Foo", ["x"], ["y"], domain="my.ops")
    return model([node], [("x", TensorProto.FLOAT, ["n"])], [("y", TensorProto.FLOAT, ["n"])])


def with_sequence() -> onnx.ModelProto:
    proto = model([helper.make_node("SequenceConstruct", ["x"], ["y"])], [("x", TensorProto.FLOAT, ["n"])], [])
    proto.graph.output.append(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["n"]))
    return proto


def with_zip_map() -> onnx.ModelProto:
    proto = model(
        [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])],
        [("x", TensorProto.FLOAT, ["n", 2])],
        [],
    )
    item = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    proto.graph.output.append(helper.make_value_info("y", helper.make_sequence_type_proto(item)))
    return proto


def that_grows() -> onnx.ModelProto:
    size = onnx.numpy_helper.from_array(np.array([1 << 34, 2]), "size")
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])]
    return model(nodes, [("x", TensorProto.FLOAT, ["n", 2])], [("y", TensorProto.FLOAT, ["k", 2])], [size])


@pytest.mark.parametrize(
    ("proto", "sentence"),
    [
        (with_custom_operator(), r"has an operator that ONNX Runtime lacks \(my.ops:Foo\); custom operators are not"),
        (with_sequence(), r"'y' is seq\(tensor\(float\)\), not a tensor; export the model without"),
        (with_zip_map(), r"'y' is seq\(map\(int64,tensor\(float\)\)\), not a tensor.*'zipmap': False"),
        (identity(TensorProto.FLOAT8E4M3FN), r"is tensor\(float8e4m3fn\); served are tensor\(float\)"),
        (that_grows(), "wants more memory for one row"),
    ],
    ids=["custom operator", "sequence", "ZipMap", "FP8", "memory"],
)
async def test_what_is_not_served_is_refused_with_a_reason(
    tmp_path: Path, proto: onnx.ModelProto, sentence: str
) -> None:
    with pytest.raises(CorruptArtifact, match=sentence):
        await served(tmp_path, proto)


async def test_metadata_beside_the_model_is_read(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text('{"class_names": ["a", "b"]}')

    assert (await served(tmp_path, GATHER)).metadata.parameters == {"class_names": '["a", "b"]'}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_batch_size": "-2"}, "option 'max_batch_size' is -2; it must be -1 to"),
        ({"graph_optimizations": "most"}, "option 'graph_optimizations' is 'most'; it must be one of all, extended"),
        ({"num_inter_op_threads": "0"}, "option 'num_inter_op_threads' is 0; it must be 1 to 64"),
    ],
)
async def test_a_wrong_option_is_named(onnx_file: Path, options: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        await loaded(OnnxRuntime(), onnx_file, **options)


async def test_a_batch_that_the_model_cannot_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="option 'max_batch_size' is 8; it must be 0"):
        await served(tmp_path, identity(TensorProto.FLOAT, [1, 2]), max_batch_size="8")


@pytest.mark.parametrize(
    "options", [{"num_threads": "2", "num_inter_op_threads": "2"}, {"graph_optimizations": "none"}]
)
async def test_options_do_not_change_the_answer(onnx_file: Path, options: dict[str, str]) -> None:
    rows = FEATURES.astype(np.float32)
    usual = await (await loaded(OnnxRuntime(), onnx_file)).infer({"x": rows})

    other = await (await loaded(OnnxRuntime(), onnx_file, **options)).infer({"x": rows})

    np.testing.assert_allclose(other["scores"], usual["scores"], rtol=1e-6)

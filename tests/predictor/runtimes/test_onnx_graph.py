"""Which files an ONNX model may name: those of its own folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mesh.errors import CorruptArtifact
from predictor.runtimes.onnx import OnnxRuntime
from predictor.runtimes.onnx_graph import check_external_data
from tests.predictor.runtimes.trained import loaded

WEIGHTS = np.array([1.0, 2.0], dtype=np.float32)


def external(location: str) -> onnx.TensorProto:
    """The weights, in a file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def in_initializer(tensor: onnx.TensorProto) -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], value[1:], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def in_constant(tensor: onnx.TensorProto) -> onnx.ModelProto:
    graph = helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "g", [], [])
    return helper.make_model(graph)


def in_sparse_initializer(tensor: onnx.TensorProto) -> onnx.ModelProto:
    graph = helper.make_graph([], "g", [], [])
    graph.sparse_initializer.add().values.CopyFrom(tensor)
    return helper.make_model(graph)


def in_branch(tensor: onnx.TensorProto) -> onnx.ModelProto:
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "branch", [], [])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    return helper.make_model(helper.make_graph([node], "g", [], []))


def in_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.functions.add().node.append(helper.make_node("Constant", [], ["y"], value=tensor))
    return model


PLACES = pytest.mark.parametrize(
    "place", [in_initializer, in_constant, in_sparse_initializer, in_branch, in_function], ids=lambda f: f.__name__
)


@PLACES
@pytest.mark.parametrize(
    "location", ["../outside.bin", "/etc/hostname", "*/_ORT_MEM_ADDR_/*", "gone.bin", "link.bin", "", "a\0b", "x" * 300]
)
def test_a_file_outside_of_the_folder_is_found_wherever_it_is_named(
    tmp_path: Path, place: Callable[[onnx.TensorProto], onnx.ModelProto], location: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(WEIGHTS.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    file = folder / "model.onnx"
    file.write_bytes(place(external(location)).SerializeToString())

    with pytest.raises(CorruptArtifact, match=r"model\.onnx names .*, which is no file of the model's folder"):
        check_external_data(file, folder)
    with pytest.raises(CorruptArtifact, match="deploy the folder that holds both files"):
        check_external_data(file, None)


def test_a_key_after_its_value_is_read_all_the_same(tmp_path: Path) -> None:
    """Protobuf lets fields come in any order: no search for bytes would find this one."""
    entry = b"\x12\x0b/etc/passwd\x0a\x08location"
    tensor = b"\x6a" + bytes([len(entry)]) + entry
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + bytes([len(graph)]) + graph)

    with pytest.raises(CorruptArtifact, match="'/etc/passwd'"):
        check_external_data(tmp_path / "model.onnx", tmp_path)


def test_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    message = b""
    for _ in range(200):  # a graph in an attribute of a node of a graph
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            length = len(message)
            varint = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
            message = tag + varint + message
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + bytes([len(message) & 0x7F | 0x80, len(message) >> 7]) + message)

    with pytest.raises(CorruptArtifact, match="no ONNX model"):
        check_external_data(tmp_path / "model.onnx", tmp_path)


async def test_weights_in_the_model_s_own_folder_are_used(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "model.onnx").write_bytes(in_initializer(external("weights.bin")).SerializeToString())

    runtime = await loaded(OnnxRuntime(), tmp_path)

    assert (await runtime.infer({"x": np.zeros((1, 2), dtype=np.float32)}))["y"].tolist() == [[1, 2]]


async def test_a_single_file_brings_no_other(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "model.onnx").write_bytes(in_initializer(external("weights.bin")).SerializeToString())

    with pytest.raises(CorruptArtifact, match="deploy the folder that holds both files"):
        await loaded(OnnxRuntime(), tmp_path / "model.onnx")

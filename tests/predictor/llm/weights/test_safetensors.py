"""The safetensors reader: equal to the `safetensors` package on good files; bad files cost one error and no memory."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mesh.errors import CorruptArtifact, MeshError, NotFound, Unsupported
from predictor.llm.weights.safetensors import MAX_HEADER_BYTES, SafetensorsFile

Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(content: bytes) -> Path:
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        return path

    return write_file


def entry(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:  # Any: wrong types as well
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def file_bytes(header: Any, data_bytes: int = 0, *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data_bytes)


def test_every_tensor_equals_the_package(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
    tensors = {f"t{i}": torch.arange(i * 3).reshape(i, 3).to(dtype) for i, dtype in enumerate(dtypes)}
    tensors["scalar"] = torch.tensor(1.5)
    save_file(tensors, path, metadata={"format": "pt"})

    with SafetensorsFile(path) as file, safe_open(path, "pt") as reference:
        assert set(file.tensors) == set(reference.keys())
        for name, info in file.tensors.items():
            expected = reference.get_tensor(name)
            assert info.shape == tuple(expected.shape)
            assert info.dtype == reference.get_slice(name).get_dtype()
            assert file.data(name).tobytes() == expected.flatten().view(torch.uint8).numpy().tobytes()


HOSTILE = [
    (b"", "the file is empty"),
    (b"\x02\0\0\0", "the file has 4 bytes; the length of its header alone takes 8"),
    (file_bytes({}, length=1 << 62), "the header's length is 4611686018427387904; at most 2 bytes are possible"),
    (file_bytes({}, 10, length=13), "the header's length is 13"),
    (file_bytes(b"nonsense"), "not valid JSON"),
    (file_bytes([1, 2]), "holds no JSON object"),
    (file_bytes(b'{"a": {}, "a": {}}'), "key 'a' appears twice"),
    (file_bytes(b'{"a": ' + b"[" * 50_000), "nested too deeply"),
    (file_bytes({"a": 1}), "'a' is of type int; it must be an object"),
    (file_bytes({"a": {"shape": [1], "data_offsets": [0, 4]}}, 4), "'a': 'dtype' is missing"),
    (file_bytes({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, 4), "'a': 'shape' is missing"),
    (file_bytes({"a": {"dtype": "F32", "shape": [1]}}, 4), "'a': 'data_offsets' is missing"),
    (file_bytes({"a": entry([1], [0, 8])}, 4), "within the 4 bytes of data"),
    (file_bytes({"a": entry([1], [4, 0])}, 4), "within the 4 bytes of data"),
    (file_bytes({"a": entry([1], [0, 4, 4])}, 4), "they must be a start and an end"),
    (file_bytes({"a": entry([1], [-4, 0])}, 4), "must be an integer from 0 to"),
    (file_bytes({"a": entry([1.0], [0, 4])}, 4), "must be an integer from 0 to"),
    (file_bytes({"a": entry([True], [0, 4])}, 4), "must be an integer from 0 to"),
    (file_bytes({"a": entry([1 << 63], [0, 4])}, 4), "must be an integer from 0 to"),
    (file_bytes({"a": entry([1 << 62, 4], [0, 0])}), "which takes 73786976294838206464 bytes, not the 0"),
    (file_bytes({"a": entry([1 << 32, 1 << 32], [0, 0])}), "not the 0 of its data_offsets"),
    (file_bytes({"a": entry([2], [0, 4])}, 4), "which takes 8 bytes, not the 4"),
    (file_bytes({"a": entry([1] * 9, [0, 4])}, 4), "has 9 dimensions; at most 8 are allowed"),
    (file_bytes({"a": entry([2], [0, 8]), "b": entry([2], [4, 12])}, 12), "'b' starts at byte"),
    (file_bytes({"a": entry([2], [0, 8]), "b": entry([2], [0, 8])}, 8), "'b' starts at byte"),
    (file_bytes({"a": entry([1], [4, 8])}, 8), "'a' starts at byte"),
    (file_bytes({"a": entry([1], [0, 4])}, 5), "the tensors end at byte"),
]


@pytest.mark.parametrize(("content", "message"), HOSTILE, ids=[message for _, message in HOSTILE])
def test_a_hostile_file_is_corrupt_and_takes_no_memory(write: Write, content: bytes, message: str) -> None:
    path = write(content)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptArtifact) as caught:
            SafetensorsFile(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert message in caught.value.message
    assert caught.value.message.startswith("model.safetensors: ")
    assert "\n" not in caught.value.message
    assert peak < 4 << 20


def test_a_header_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(1 << 40)  # a hole: the disk holds nothing of it

    with pytest.raises(CorruptArtifact, match=f"at most {MAX_HEADER_BYTES} bytes are possible"):
        SafetensorsFile(path)


def test_an_unknown_element_type_is_unsupported(write: Write) -> None:
    with pytest.raises(Unsupported, match="tensor 'a' has element type 'F4'; known are BOOL"):
        SafetensorsFile(write(file_bytes({"a": entry([2], [0, 1], "F4")}, 1)))


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        SafetensorsFile(tmp_path / "absent.safetensors")


numbers = st.one_of(st.integers(-1, 12), st.sampled_from([1 << 31, 1 << 62, 1 << 64, None, True, 1.5, "4"]))
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I64", "F4", 3]),
        "shape": st.lists(numbers, max_size=3),
        "data_offsets": st.lists(numbers, min_size=1, max_size=3),
        "more": st.none(),
    },
)
plausible = st.builds(
    lambda shape, start: entry(shape, [start, start + 4 * (shape[0] if shape else 1)]),
    st.lists(st.integers(0, 3), max_size=1),
    st.sampled_from([0, 4, 8]),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.one_of(plausible, entries)), st.integers(0, 16))
def test_what_opens_here_opens_the_same_in_the_package(write: Write, header: dict[str, Any], data_bytes: int) -> None:
    path = write(file_bytes(header, data_bytes))

    try:
        with SafetensorsFile(path) as file:
            opened = {name: (list(info.shape), file.data(name).size) for name, info in file.tensors.items()}
    except MeshError as error:
        assert isinstance(error, CorruptArtifact | Unsupported)
        return

    with safe_open(path, "pt") as reference:
        assert opened == {
            name: (list(tensor.shape), tensor.nbytes)
            for name, tensor in ((name, reference.get_tensor(name)) for name in reference.keys())  # noqa: SIM118
        }


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_damaged_file_opens_only_where_the_package_opens_it(write: Write, data: st.DataObject) -> None:
    content = bytearray(file_bytes({"a": entry([2, 1], [0, 8]), "b": entry([1], [8, 10], "BF16")}, 10))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 11))] = data.draw(st.integers(0, 255))
    path = write(bytes(content))

    try:
        SafetensorsFile(path).close()
        opened = True
    except (CorruptArtifact, Unsupported):
        opened = False

    try:
        with safe_open(path, "pt"):
            expected = True
    except SafetensorError:
        expected = False
    assert opened <= expected


def test_a_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    num_bytes = 1 << 40
    header = json.dumps({"big": entry([num_bytes], [0, num_bytes], "U8")}).encode()
    with path.open("wb") as sparse:
        sparse.write(struct.pack("<Q", len(header)) + header)
        sparse.truncate(8 + len(header) + num_bytes)  # more than memory; the disk holds nothing of it
        sparse.seek(-1, 2)
        sparse.write(b"\x07")

    with SafetensorsFile(path) as file:
        data = file.data("big")
        assert (data.size, data[0], data[-1]) == (num_bytes, 0, 7)
        del data

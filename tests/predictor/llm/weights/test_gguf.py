"""The GGUF reader: what it reads from good files, and that bad files cost one clear error and no memory."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.errors import CorruptArtifact, MeshError, NotFound, Unsupported
from predictor.llm.weights.gguf import BlockFormat, GgufFile


def text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def key(name: str, type_id: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", type_id) + value


def tensor(name: str, shape: tuple[int, ...], type_id: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_id, offset)


def gguf_bytes(
    keys: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    num_keys: int | None = None,
    num_tensors: int | None = None,
) -> bytes:
    counts = (len(tensors) if num_tensors is None else num_tensors, len(keys) if num_keys is None else num_keys)
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join((*keys, *tensors))
    return head + bytes(-len(head) % 32) + data


Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(content: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return path

    return write_file


SMALL = gguf_bytes(
    (
        key("general.architecture", 8, text("llama")),
        key("llama.block_count", 4, struct.pack("<I", 2)),
        key("names", 9, struct.pack("<IQ", 8, 2) + text("a") + text("é")),
        key("numbers", 9, struct.pack("<IQ3i", 5, 3, 1, -2, 3)),
    ),
    (tensor("a", (4, 2)), tensor("b", (32,), type_id=8, offset=32)),
    np.arange(8, dtype="<f4").tobytes() + bytes(34),
)


def test_metadata_keeps_its_types(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "types.gguf", "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -7)
    writer.add_int64("i64", -(1 << 60))
    writer.add_uint64("u64", (1 << 64) - 1)
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "häßlich")
    writer.add_array("bools", [True, False])
    writer.add_array("floats", [0.25, 4.0])
    writer.add_array("nested", [[1, 2], [3]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()

    with GgufFile(tmp_path / "types.gguf") as file:
        metadata = file.metadata

    assert metadata["u8"] == 200
    assert metadata["i8"] == -7
    assert metadata["i64"] == -(1 << 60)
    assert metadata["u64"] == (1 << 64) - 1
    assert metadata["f32"] == 0.5
    assert metadata["f64"] == 0.1
    assert metadata["yes"] is True
    assert metadata["text"] == "häßlich"
    assert metadata["bools"] == (True, False)
    assert metadata["floats"] == (0.25, 4.0)
    assert metadata["nested"] == ((1, 2), (3,))


def test_tensors_have_row_major_shapes_and_their_bytes(write: Write) -> None:
    with GgufFile(write(SMALL)) as file:
        shapes = {name: (info.shape, info.block_format, info.size_bytes) for name, info in file.tensors.items()}
        values = file.blocks("a").view("<f4").tolist()

    assert shapes == {"a": ((2, 4), BlockFormat.F32, 32), "b": ((32,), BlockFormat.Q8_0, 34)}
    assert values == list(range(8))


def test_the_real_file_reads_as_the_gguf_package_reads_it(smollm2_gguf: Path) -> None:
    reference = gguf.GGUFReader(smollm2_gguf)

    with GgufFile(smollm2_gguf) as file:
        index = {name: (info.shape[::-1], info.block_format.name, info.offset) for name, info in file.tensors.items()}
        metadata = dict(file.metadata)

    assert index == {t.name: (tuple(t.shape), t.tensor_type.name, t.data_offset) for t in reference.tensors}
    fields = {name: field for name, field in reference.fields.items() if not name.startswith("GGUF.")}
    assert metadata.keys() == fields.keys()
    for name in ("general.architecture", "llama.rope.freq_base", "tokenizer.ggml.add_bos_token"):
        assert metadata[name] == fields[name].contents()
    assert list(metadata["tokenizer.ggml.merges"]) == fields["tokenizer.ggml.merges"].contents()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda f: f.integer("names"), "metadata key 'names' is of type tuple; it must be an integer"),
        (lambda f: f.integer("absent"), "metadata key 'absent' is missing; it must be an integer"),
        (lambda f: f.string("llama.block_count"), "it must be a string"),
        (lambda f: f.strings("numbers"), "it must be an array of strings"),
        (lambda f: f.integers("names"), "it must be an array of integers"),
        (lambda f: f.boolean("llama.block_count"), "it must be a boolean"),
        (lambda f: f.number("names"), "it must be a finite number"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(write: Write, read: Callable[[GgufFile], object], message: str) -> None:
    with GgufFile(write(SMALL)) as file, pytest.raises(CorruptArtifact) as caught:
        read(file)

    assert message in caught.value.message


def test_defaults_stand_in_for_absent_keys(write: Write) -> None:
    with GgufFile(write(SMALL)) as file:
        assert file.integer("absent", 5) == 5
        assert file.boolean("absent", False) is False
        assert file.string("absent", "x") == "x"
        assert file.number("absent", 1.5) == 1.5
        assert file.integers("numbers") == (1, -2, 3)
        assert file.strings("names") == ("a", "é")


def test_every_truncation_is_corrupt(write: Write) -> None:
    for length in range(len(SMALL)):
        with pytest.raises(CorruptArtifact):
            GgufFile(write(SMALL[:length]))


HUGE = (1 << 64) - 1
HOSTILE = {
    "not a GGUF file": b"PK\x03\x04" + bytes(64),
    "number of tensors is": gguf_bytes(num_tensors=HUGE),
    "number of keys is": gguf_bytes(num_keys=1 << 40),
    "length of metadata key is": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", HUGE) + bytes(64),
    "appears twice": gguf_bytes((key("k", 0, b"1"), key("k", 0, b"1"))),
    "unknown type 77": gguf_bytes((key("k", 77, b""),)),
    "length of string 'k' is": gguf_bytes((key("k", 8, struct.pack("<Q", 1 << 50)),)),
    "length of 'k' is": gguf_bytes((key("k", 9, struct.pack("<IQ", 8, 1 << 50)),)),
    "value of 'k' at byte": gguf_bytes((key("k", 9, struct.pack("<IQ", 12, 30) + bytes(64)),)),
    "a string of 'k' ends": gguf_bytes((key("k", 9, struct.pack("<IQQ", 8, 1, 1 << 62) + bytes(64)),)),
    "nests arrays deeper than 4": gguf_bytes((key("k", 9, struct.pack("<IQ", 9, 1) * 20),)),
    "is not UTF-8": gguf_bytes((key("k", 8, struct.pack("<Q", 1) + b"\xff"),)),
    "5 dimensions": gguf_bytes((), (tensor("t", (1,) * 5),), bytes(64)),
    "rows of 33 weights": gguf_bytes((), (tensor("t", (33,), type_id=8),), bytes(64)),
    "tensor 't' ends at byte": gguf_bytes((), (tensor("t", (1 << 40, 1 << 40)),), bytes(64)),
    "ends at byte": gguf_bytes((), (tensor("t", (8,), offset=1 << 60),), bytes(64)),
    "misaligned": gguf_bytes((), (tensor("t", (8,), offset=4),), bytes(64)),
    "overlaps": gguf_bytes((), (tensor("t", (8,)), tensor("u", (8,))), bytes(64)),
    "tensor 't' appears twice": gguf_bytes((), (tensor("t", (8,)), tensor("t", (8,), offset=32)), bytes(64)),
    "power of two": gguf_bytes((key("general.alignment", 4, struct.pack("<I", 0)),)),
    "the file is empty": b"",
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_files_are_refused_without_taking_memory(write: Write, message: str) -> None:
    path = write(HOSTILE[message])
    tracemalloc.start()

    with pytest.raises(CorruptArtifact) as caught:
        GgufFile(path)

    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message in caught.value.message
    assert peak_bytes < 1 << 20


def test_other_versions_and_tensor_types_are_unsupported(write: Write) -> None:
    with pytest.raises(Unsupported, match="GGUF version 2 is not supported"):
        GgufFile(write(gguf_bytes(version=2)))
    with pytest.raises(Unsupported, match="tensor 't' has GGML type 16; supported are F32"):
        GgufFile(write(gguf_bytes((), (tensor("t", (256,), type_id=16),), bytes(512))))


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"'absent\.gguf' does not exist"):
        GgufFile(tmp_path / "absent.gguf")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_damage_is_read_or_refused(write: Write, damage: list[tuple[int, int]]) -> None:
    content = bytearray(SMALL)
    for position, value in damage:
        content[position] = value

    try:
        with GgufFile(write(bytes(content))) as file:
            sizes = [len(file.blocks(name)) for name in file.tensors]
    except MeshError:
        return

    assert sum(sizes) <= len(content)


def test_a_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    head = gguf_bytes((), (tensor("big", (1 << 38,)),))
    with path.open("wb") as sparse:
        sparse.write(head)
        sparse.truncate(len(head) + (1 << 40))  # more than memory; the disk holds nothing of it
        sparse.seek(-1, 2)
        sparse.write(b"\x07")

    with GgufFile(path) as file:
        blocks = file.blocks("big")
        assert (blocks.size, blocks[0], blocks[-1]) == (1 << 40, 0, 7)
        del blocks

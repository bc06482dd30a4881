"""What every runtime of the table must do, each with a real model of its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples import standard_scaler
from mesh import plugins
from mesh.errors import CorruptArtifact, InvalidInput
from mesh.tensors import DATATYPES, Tensor
from predictor.runtimes import RUNTIMES
from predictor.runtimes.base import Arrays, DecoupledRuntime, ModelArtifact, Runtime
from predictor.signature import Signature
from tests.predictor.runtimes.torch_models import export_classifier


@dataclass(frozen=True)
class Example:
    """fixture: gives the path of a model. broken: makes a model of no worth in a folder. inputs: one good request."""

    fixture: str
    broken: Callable[[Path], Path]
    inputs: dict[str, tuple[str, Any]]


def broken_folder(folder: Path) -> Path:
    (folder / "model.skops").write_bytes(b"PK\x03\x04")
    return folder


def broken_gguf(folder: Path) -> Path:
    (folder / "model.gguf").write_bytes(b"GGUF\x03")
    return folder / "model.gguf"


def broken_encoder(folder: Path) -> Path:
    (folder / "config.json").write_bytes(b'{"model_type": "bert"')
    return folder


def broken_class(folder: Path) -> Path:
    (folder / "model.py").write_text("class Model: pass")
    return folder


@pytest.fixture
def scaler_folder(tmp_path: Path) -> Path:
    standard_scaler.write(tmp_path / "scaler")
    return tmp_path / "scaler"


def broken_program(folder: Path) -> Path:
    whole = export_classifier(folder / "whole.pt2").read_bytes()
    (folder / "model.pt2").write_bytes(whole[: len(whole) // 2])
    return folder / "model.pt2"


@pytest.fixture
def classifier_program(tmp_path: Path) -> Path:
    return export_classifier(tmp_path / "classifier.pt2")


def broken_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(b"{not a model")
        return folder / name

    return write


IRIS = np.array([[5.1, 3.5, 1.4, 0.2]])

EXAMPLES = {
    "embedding": Example(
        "minilm_folder", broken_encoder, {"text": ("BYTES", np.array([b"One text,", b"", b"two."], dtype=object))}
    ),
    "reranker": Example(
        "reranker_folder",
        broken_encoder,
        {
            "query": ("BYTES", np.array([b"what is a fox", b""], dtype=object)),
            "document": ("BYTES", np.array([b"a quick brown fox", b"a lazy dog"], dtype=object)),
        },
    ),
    "sklearn": Example("iris_folder", broken_folder, {"input": ("FP64", IRIS)}),
    "xgboost": Example("xgboost_file", broken_file("model.ubj"), {"input": ("FP32", IRIS.astype(np.float32))}),
    "lightgbm": Example("lightgbm_file", broken_file("model.txt"), {"input": ("FP64", IRIS)}),
    "onnx": Example("onnx_file", broken_file("model.onnx"), {"x": ("FP32", IRIS.astype(np.float32))}),
    "torch": Example("classifier_program", broken_program, {"features": ("FP32", np.ones((2, 4), np.float32))}),
    "python": Example("scaler_folder", broken_class, {"rows": ("FP32", np.ones((2, 3), np.float32))}),
    "llm": Example(
        "smollm2_gguf",
        broken_gguf,
        {
            "text_input": ("BYTES", np.array([b"One, two,"], dtype=object)),
            "sampling_parameters": ("BYTES", np.array([b'{"max_tokens": 3}'], dtype=object)),
        },
    ),
}

EVERY_FORMAT = pytest.mark.parametrize("model_format", list(RUNTIMES))
EVERY_FORMAT_FOR_REAL = pytest.mark.parametrize(
    "model_format", [pytest.param(name, marks=[pytest.mark.slow] if name == "llm" else []) for name in RUNTIMES]
)


@pytest.fixture
def model_path(model_format: str, request: pytest.FixtureRequest) -> Path:
    """The real model of the format."""
    path: Path = request.getfixturevalue(EXAMPLES[model_format].fixture)
    return path


def make(model_format: str) -> Runtime:
    runtime: Runtime = plugins.load(RUNTIMES, model_format, "model format")()
    return runtime


async def load(runtime: Runtime, path: Path, **options: str) -> list[tuple[str, int, int | None]]:
    """Load `path` and return the progress that was told."""
    told: list[tuple[str, int, int | None]] = []
    artifact = ModelArtifact("model", "1", path, "0" * 64, options, may_run_code=True)
    await runtime.load(artifact, lambda stage, done, total: told.append((stage, done, total)), lambda *_: None)
    return told


def test_every_runtime_has_an_example_here() -> None:
    assert EXAMPLES.keys() == RUNTIMES.keys()


@pytest.mark.timeout(300)
@EVERY_FORMAT_FOR_REAL
async def test_a_loaded_model_answers_as_its_metadata_says(model_format: str, model_path: Path) -> None:
    example, runtime = EXAMPLES[model_format], make(model_format)

    told = await load(runtime, model_path)
    await runtime.warm()

    metadata = runtime.metadata
    assert told
    assert all(done >= 0 and (total is None or done <= total) for _, done, total in told)
    names = [spec.name for spec in (*metadata.inputs, *metadata.outputs)]
    assert len(set(names)) == len(names)
    assert metadata.is_decoupled == isinstance(runtime, DecoupledRuntime)
    assert runtime.memory_bytes > 0
    tensors = {name: Tensor(name, datatype, array) for name, (datatype, array) in example.inputs.items()}
    answer = await runtime.infer(Signature(metadata).check_inputs(tensors))
    assert_as_declared(runtime, answer)
    if isinstance(runtime, DecoupledRuntime):
        async for part in runtime.infer_stream(Signature(metadata).check_inputs(tensors)):
            assert_as_declared(runtime, part)
    await runtime.unload()
    await runtime.unload()


def assert_as_declared(runtime: Runtime, answer: Arrays) -> None:
    assert set(answer) == {spec.name for spec in runtime.metadata.outputs}
    for spec in runtime.metadata.outputs:
        array = answer[spec.name]
        assert array.dtype == DATATYPES[spec.datatype].dtype
        assert array.ndim == len(spec.shape)
        assert all(wanted in (-1, size) for wanted, size in zip(spec.shape, array.shape, strict=True))


@EVERY_FORMAT
async def test_a_broken_artifact_is_called_corrupt_and_leaves_nothing(model_format: str, tmp_path: Path) -> None:
    runtime = make(model_format)

    with pytest.raises(CorruptArtifact) as refusal:
        await load(runtime, EXAMPLES[model_format].broken(tmp_path))

    assert str(tmp_path.parent) not in refusal.value.message
    await runtime.unload()


@EVERY_FORMAT
async def test_an_unknown_option_is_named(model_format: str, tmp_path: Path) -> None:
    runtime = make(model_format)

    with pytest.raises(InvalidInput, match="option 'no_such_option' is unknown; known are "):
        await load(runtime, EXAMPLES[model_format].broken(tmp_path), no_such_option="1")

    await runtime.unload()


@EVERY_FORMAT
async def test_unload_without_load_is_safe(model_format: str) -> None:
    await make(model_format).unload()

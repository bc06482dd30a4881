"""The torch runtime: exported programs answer as the models that they were, and what does not fit is said clearly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.export import Dim

from mesh.errors import CorruptArtifact, InvalidInput, MeshError, PermissionDenied, Unavailable
from mesh.tensors import DATATYPES as WIRE_DATATYPES
from predictor.runtimes.base import Arrays, ModelArtifact, TensorSpec
from predictor.runtimes.torch_program import TorchRuntime
from tests.predictor.runtimes.torch_models import PROGRAM, Classifier, changed, export, export_classifier

ROWS = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
DTYPES = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}


async def loaded(path: Path, *, may_run_code: bool = False, **options: str) -> TorchRuntime:
    runtime = TorchRuntime()
    artifact = ModelArtifact("m", "1", path, "0" * 64, options, may_run_code=may_run_code)
    await runtime.load(artifact, lambda *progress: None, lambda *health: None)
    await runtime.warm()
    return runtime


def forward(model: torch.nn.Module, *arrays: NDArray[Any]) -> Any:
    with torch.inference_mode():
        return model(*(torch.from_numpy(array.copy()) for array in arrays))


class Pair(torch.nn.Module):
    """Two inputs, of which one has two sizes that vary; results in a dict that holds a tuple."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
        return {"scaled": x * 2, "sums": (x.sum(-1), mask.sum(-1)), "mask.any": mask.any(-1)}


def export_pair(path: Path) -> Path:
    batch = Dim("batch")
    shapes = {"x": {0: batch}, "mask": {0: batch, 1: Dim.AUTO}}
    return export(path, Pair(), (torch.randn(3, 4), torch.zeros(3, 6, dtype=torch.int32)), shapes)


async def test_answers_equal_the_model_s_own(tmp_path: Path) -> None:
    runtime = await loaded(export_classifier(tmp_path / "model.pt2"))
    rows = ROWS.copy()
    rows.flags.writeable = False

    answer = await runtime.infer({"features": rows})

    np.testing.assert_array_equal(answer["output"], forward(Classifier().eval(), ROWS).numpy())
    assert runtime.metadata.inputs == (TensorSpec("features", "FP32", (-1, 4)),)
    assert runtime.metadata.outputs == (TensorSpec("output", "FP32", (-1, 3)),)
    assert runtime.memory_bytes > 4 * (4 * 8 + 8 * 3)
    await runtime.unload()


async def test_a_folder_with_model_pt2_is_a_model(tmp_path: Path) -> None:
    export_classifier(tmp_path / "model.pt2")

    assert (await (await loaded(tmp_path)).infer({"features": ROWS}))["output"].shape == (5, 3)


@pytest.mark.parametrize(("exported", "option", "size"), [(64, {}, 64), (64, {"max_batch_size": "16"}, 16)])
async def test_the_batch_is_as_large_as_program_and_option_allow(
    tmp_path: Path, exported: int, option: dict[str, str], size: int
) -> None:
    runtime = await loaded(export_classifier(tmp_path / "model.pt2", exported), **option)

    assert runtime.metadata.max_batch_size == size


async def test_nothing_of_a_batch_is_answered_with_nothing(tmp_path: Path) -> None:
    runtime = await loaded(export_classifier(tmp_path / "model.pt2"))

    answer = await runtime.infer({"features": ROWS[:0]})

    assert answer["output"].shape == (0, 3)
    assert answer["output"].dtype == np.float32


async def test_several_inputs_and_nested_results_have_names(tmp_path: Path) -> None:
    runtime = await loaded(export_pair(tmp_path / "model.pt2"))
    mask = np.arange(35, dtype=np.int32).reshape(5, 7) % 3

    answer = await runtime.infer({"mask": mask, "x": ROWS})

    own = forward(Pair(), ROWS, mask)
    assert list(answer) == ["scaled", "sums_0", "sums_1", "mask_any"]
    for name, wanted in zip(answer, (own["scaled"], *own["sums"], own["mask.any"]), strict=True):
        np.testing.assert_array_equal(answer[name], wanted.numpy())
    assert [spec.shape for spec in runtime.metadata.inputs] == [(-1, 4), (-1, -1)]
    assert [spec.datatype for spec in runtime.metadata.outputs] == ["FP32", "FP32", "INT64", "BOOL"]
    assert runtime.metadata.max_batch_size == 4096


async def test_results_can_be_named_by_an_option(tmp_path: Path) -> None:
    path = export_pair(tmp_path / "model.pt2")

    runtime = await loaded(path, output_names='["a", "b", "c", "d"]')

    assert [spec.name for spec in runtime.metadata.outputs] == ["a", "b", "c", "d"]
    for names, sentence in (
        ('["a"]', "has 1 names; the program has 4 outputs"),
        ('["a", "a", "b", "c"]', "two outputs have the same name"),
        ("a,b", "must be a JSON list of texts"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            await loaded(path, output_names=names)


class Identity(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x.clone()


@pytest.mark.parametrize("datatype", DTYPES)
async def test_every_datatype_goes_in_and_out(tmp_path: Path, datatype: str) -> None:
    zeros = torch.zeros(2, 3).to(DTYPES[datatype])
    runtime = await loaded(export(tmp_path / "model.pt2", Identity(), (zeros,), {"x": {0: Dim.AUTO}}))
    array = np.array([[0, 1, 1.5], [2, 3, 100]]).astype(WIRE_DATATYPES[datatype].dtype)
    array.flags.writeable = False

    answer = await runtime.infer({"x": array})

    assert [spec.datatype for spec in runtime.metadata.inputs + runtime.metadata.outputs] == [datatype] * 3
    assert [spec.name for spec in runtime.metadata.outputs] == ["output_0", "output_1"]
    for result in answer.values():
        np.testing.assert_array_equal(result, array)
        assert result.dtype == array.dtype


class InPlace(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1)


async def test_a_program_that_writes_to_its_input_gets_a_copy(tmp_path: Path) -> None:
    runtime = await loaded(export(tmp_path / "model.pt2", InPlace(), (torch.zeros(2, 3),)))
    content = bytes(24)

    for _ in range(2):
        answer = await runtime.infer({"x": np.frombuffer(content, np.float32).reshape(2, 3)})
        np.testing.assert_array_equal(answer["output"], np.ones((2, 3)))

    assert content == bytes(24)


class Whole(torch.nn.Module):
    """No batch: the result has another first size."""

    def forward(self, x: torch.Tensor, scale: float = 2.0, bias: torch.Tensor | None = None) -> torch.Tensor:
        return x.sum(0) * scale


async def test_a_program_without_a_batch_and_with_constants(tmp_path: Path) -> None:
    path = export(tmp_path / "model.pt2", Whole(), (torch.zeros(8, 4), 3.0), {"x": {0: Dim("n", min=4)}, "scale": None})

    runtime = await loaded(path)

    assert runtime.metadata.max_batch_size == 0
    assert [spec.name for spec in runtime.metadata.inputs] == ["x"]
    np.testing.assert_allclose((await runtime.infer({"x": ROWS}))["output"], ROWS.sum(0) * 3, rtol=1e-6)
    with pytest.raises(InvalidInput, match="dimension 0 of input 'x' is 3; it must be at least 4"):
        await runtime.infer({"x": ROWS[:3]})


class Eights(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], 8, -1)


class Lookup(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.table(ids)
        return vectors


def eights(path: Path) -> Path:
    return export(path, Eights(), (torch.zeros(3, 16),), {"x": {0: Dim.AUTO, 1: 8 * Dim("width", max=9)}})


def lookup(path: Path) -> Path:
    return export(path, Lookup(), (torch.zeros(2, 5, dtype=torch.int64),), {"ids": {0: Dim.AUTO}})


@pytest.mark.parametrize(
    ("make", "inputs", "sentence"),
    [
        (export_classifier, {"features": np.zeros((65, 4), np.float32)}, "is 65; it may be at most 64"),
        (eights, {"x": np.zeros((2, 17), np.float32)}, "dimension 1 of input 'x' is 17; it must be a multiple of 8"),
        (eights, {"x": np.zeros((2, 80), np.float32)}, "dimension 1 of input 'x' is 80; it may be at most 72"),
        (
            export_pair,
            {"x": ROWS, "mask": np.zeros((4, 2), np.int32)},
            "dimension 0 of input 'mask' is 4; dimension 0 of input 'x' makes it 5",
        ),
        (lookup, {"ids": np.full((1, 5), 10)}, "the inputs do not fit what the program asserts .* index out of range"),
    ],
)
async def test_inputs_that_do_not_fit_the_program_are_bad_input(
    tmp_path: Path, make: Callable[[Path], Path], inputs: Arrays, sentence: str
) -> None:
    runtime = await loaded(make(tmp_path / "model.pt2"))

    with pytest.raises(InvalidInput, match=sentence):
        await runtime.infer(inputs)


class Counter(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)  # type: ignore[operator]
        return x + self.seen


class Size(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return x, x.shape[0]


class Waves(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(x)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Counter(), "changes its own buffers when it runs: export the model after model.eval()"),
        (Classifier(), "export the model after model.eval()"),
        (Size(), "output 'output_1' of the program is no tensor; a model takes and gives tensors"),
        (Waves(), "output 'output' of the program has dtype torch.complex64, which no datatype carries"),
    ],
)
async def test_a_model_that_cannot_be_served_says_why(tmp_path: Path, model: torch.nn.Module, sentence: str) -> None:
    argument = "features" if isinstance(model, Classifier) else "x"
    path = export(tmp_path / "model.pt2", model, (torch.randn(2, 4),), {argument: {0: Dim.AUTO}})

    with pytest.raises(CorruptArtifact, match=sentence):
        await loaded(path)


@pytest.mark.parametrize("kept", [0, 100, -100])
async def test_a_truncated_file_is_corrupt(tmp_path: Path, kept: int) -> None:
    path = export_classifier(tmp_path / "model.pt2")
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(CorruptArtifact, match=r"model\.pt2 is truncated or no exported program"):
        await loaded(path)


async def test_a_program_whose_parts_do_not_fit_is_corrupt(tmp_path: Path) -> None:
    path = export_classifier(tmp_path / "model.pt2")

    def spoil(document: Any) -> None:
        document["graph_module"]["graph"]["outputs"][0]["as_tensor"]["name"] = "nobody"

    with pytest.raises(CorruptArtifact, match=r"odd\.pt2 is no program that torch .* can load"):
        await loaded(changed(path, tmp_path / "odd.pt2", PROGRAM, spoil))


@torch.library.custom_op("meshserve_test::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Custom(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        doubled: torch.Tensor = twice(x)
        return doubled


async def test_operators_of_others_run_where_the_operator_trusts_them(tmp_path: Path) -> None:
    path = export(tmp_path / "model.pt2", Custom(), (torch.zeros(5, 4),))

    with pytest.raises(PermissionDenied, match=r"holds the operator 'torch\.ops\.meshserve_test\.twice\.default'"):
        await loaded(path)
    runtime = await loaded(path, may_run_code=True)
    np.testing.assert_array_equal((await runtime.infer({"x": ROWS}))["output"], ROWS * 2)


async def test_a_large_input_is_not_copied(tmp_path: Path) -> None:
    runtime = await loaded(export(tmp_path / "model.pt2", Identity(), (torch.zeros(2, 4),), {"x": {0: Dim.AUTO}}))
    array = np.zeros((4096, 4), np.float32)

    answer = await runtime.infer({"x": array})

    assert np.shares_memory(answer["output_0"], array)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"device": "cuda:9"}, Unavailable, "option 'device' is 'cuda:9'; this machine has [0-8] GPUs"),
        ({"device": "tpu"}, InvalidInput, "option 'device' is 'tpu'; it must be cpu, cuda or cuda:N"),
        ({"num_threads": "0"}, InvalidInput, "option 'num_threads' is 0; it must be 1 to 64"),
        ({"threads": "2"}, InvalidInput, "option 'threads' is unknown"),
    ],
)
async def test_a_wrong_option_is_named(
    tmp_path: Path, options: dict[str, str], error: type[MeshError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        await loaded(export_classifier(tmp_path / "model.pt2"), **options)


async def test_a_folder_without_a_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match=r"the model folder has no model\.pt2"):
        await loaded(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
async def test_a_program_computes_on_a_gpu(tmp_path: Path) -> None:
    runtime = await loaded(export_classifier(tmp_path / "model.pt2"), device="cuda")

    answer = await runtime.infer({"features": ROWS})

    np.testing.assert_allclose(answer["output"], forward(Classifier().eval(), ROWS).numpy(), rtol=1e-4, atol=1e-5)

"""A `.pt2` file cannot run code unless the operator lets it: each way in which torch's loader would is shut."""

from __future__ import annotations

import contextlib
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mesh.errors import CorruptArtifact, MeshError, PermissionDenied
from predictor.runtimes.torch_archive import PROGRAM, write_clean
from tests.predictor.runtimes.torch_models import changed, export, export_classifier, respelled

WEIGHTS = "data/weights/model_weights_config.json"
SAMPLES = "data/sample_inputs/model.pt"


class Touch:
    """Pickles to code that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_classifier(tmp_path_factory.mktemp("torch") / "model.pt2")


def clean(path: Path, folder: Path, *, may_run_code: bool = False) -> Path:
    return write_clean(path, folder / "clean.pt2", may_run_code=may_run_code)


def torch_pickle(value: object) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def first_node(document: Any) -> Any:
    return document["graph_module"]["graph"]["nodes"][0]


def expression(document: Any) -> Any:
    """The batch of the input."""
    return document["graph_module"]["graph"]["tensor_values"]["features"]["sizes"][0]["as_expr"]


def signature(document: Any) -> Any:
    return document["graph_module"]["module_call_graph"][0]["signature"]


def test_a_clean_copy_computes_the_same(program: Path, tmp_path: Path) -> None:
    rows = torch.randn(3, 4)

    copy = torch.export.load(clean(program, tmp_path))

    torch.testing.assert_close(copy.module()(rows), torch.export.load(program).module()(rows), rtol=0, atol=0)


def test_torch_itself_would_run_the_code_of_sample_inputs_and_the_copy_has_none(program: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    code = torch_pickle((Touch(marker),))
    hostile = respelled(program, tmp_path / "hostile.pt2", lambda name, content: code if name == SAMPLES else content)

    copy = clean(hostile, tmp_path)
    torch.export.load(copy)
    assert not marker.exists()

    # Should torch become careful itself, the checks here may go.
    with contextlib.suppress(Exception):  # whatever it makes of what came out of the pickle
        torch.export.load(hostile)
    assert marker.exists()


def test_torch_itself_would_run_an_expression(program: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    hostile = changed(
        program, tmp_path / "hostile.pt2", PROGRAM, lambda document: expression(document).update(expr_str=code)
    )

    with pytest.raises(PermissionDenied, match="holds the expression"):
        clean(hostile, tmp_path)
    assert not marker.exists()
    with contextlib.suppress(Exception):  # the expression is no size
        torch.export.load(hostile)
    assert marker.exists()


HOSTILE: dict[str, tuple[str, Callable[[Any], None]]] = {
    "another function of torch": (PROGRAM, lambda d: first_node(d).update(target="torch.hub.load")),
    "another module's function": (PROGRAM, lambda d: first_node(d).update(target="_operator.methodcaller")),
    "a way around": (PROGRAM, lambda d: first_node(d).update(target="torch.ops.aten.linear.default.__globals__.get")),
    "an operator that reads files": (PROGRAM, lambda d: first_node(d).update(target="torch.ops.aten.from_file")),
    "somebody's operator": (PROGRAM, lambda d: first_node(d).update(target="torch.ops.mine.run.default")),
    "a name with code": (PROGRAM, lambda d: first_node(d).update(name="x = print('x')")),
    "a key with code": (PROGRAM, lambda d: d["graph_module"]["graph"]["sym_int_values"].update({"x()": {"as_int": 1}})),
    "a limit of code": (PROGRAM, lambda d: d["range_constraints"].update({"print(1)": {"min_val": 0, "max_val": 1}})),
    "a text with code": (
        PROGRAM,
        lambda d: first_node(d)["inputs"].append({"name": "x", "arg": {"as_string": "'); print('"}, "kind": 2}),
    ),
    "an operator as argument": (
        PROGRAM,
        lambda d: first_node(d)["inputs"].append({"name": "x", "arg": {"as_operator": "torch.hub.load"}, "kind": 2}),
    ),
    "an attribute in an expression": (PROGRAM, lambda d: expression(d).update(expr_str="Symbol('s0').__class__")),
    "a text in an expression": (PROGRAM, lambda d: expression(d).update(expr_str="Max('print(1)', 2)")),
    "a text as a switch": (PROGRAM, lambda d: expression(d).update(expr_str="Symbol('s0', positive='print(1)')")),
    "an endless expression": (PROGRAM, lambda d: expression(d).update(expr_str="Pow(Pow(9, 9), 999999999)")),
    "an unknown function": (PROGRAM, lambda d: expression(d).update(expr_str="sympify(1)")),
    "a class to import": (
        PROGRAM,
        lambda d: signature(d).update(in_spec='[1, {"type": "os.system", "context": "null", "children_spec": []}]'),
    ),
    "an enum to import": (
        PROGRAM,
        lambda d: signature(d).update(
            in_spec='[1, {"type": "builtins.tuple", "context": "{\\"__enum__\\": 1}", "children_spec": []}]'
        ),
    ),
    "a pickled weight": (WEIGHTS, lambda d: next(iter(d["config"].values())).update(use_pickle=True)),
    "a path": (WEIGHTS, lambda d: next(iter(d["config"].values())).update(path_name="../../etc/passwd")),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_more_than_data_needs_the_operators_trust(program: Path, tmp_path: Path, what: str) -> None:
    entry, change = HOSTILE[what]
    hostile = changed(program, tmp_path / "hostile.pt2", entry, change)

    with pytest.raises(
        PermissionDenied, match=r"hostile\.pt2 holds .* an operator who trusts .* sets trust_model_code"
    ):
        clean(hostile, tmp_path)

    assert clean(hostile, tmp_path, may_run_code=True) == hostile


def test_guards_and_traces_are_not_in_the_copy(program: Path, tmp_path: Path) -> None:
    def spoil(document: Any) -> None:
        document["guards_code"] = ["print('guard')"]
        document["graph_module"]["metadata"] = {"custom": "print"}
        first_node(document)["metadata"]["nn_module_stack"] = "print('stack')"

    copy = clean(changed(program, tmp_path / "odd.pt2", PROGRAM, spoil), tmp_path)

    with zipfile.ZipFile(copy) as archive:
        assert b"print" not in archive.read(f"model/{PROGRAM}")


def machine_code(folder: Path, program: Path) -> Path:
    with zipfile.ZipFile(respelled(program, folder / "model.pt2", lambda _, content: content), "a") as archive:
        archive.writestr("model/data/aotinductor/model/x.so", b"")
    return folder / "model.pt2"


def test_compiled_programs_need_trust(program: Path, tmp_path: Path) -> None:
    with pytest.raises(PermissionDenied, match="machine code of AOTInductor"):
        clean(machine_code(tmp_path, program), tmp_path)


def torch_script(folder: Path) -> Path:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(folder / "model.pt"))
    return folder / "model.pt"


def state_dict(folder: Path) -> Path:
    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "model.pt")
    return folder / "model.pt"


def pickle_file(folder: Path) -> Path:
    (folder / "model.pt").write_bytes(pickle.dumps({"weight": np.zeros(2)}))
    return folder / "model.pt"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (torch_script, "is a TorchScript file; write it with torch.export.save"),
        (state_dict, "is what torch.save writes, weights without a program; write it with torch.export.save"),
        (pickle_file, "is truncated or no exported program .* write it with torch.export.save"),
    ],
)
def test_other_files_of_torch_are_told_how_to_export(
    tmp_path: Path, make: Callable[[Path], Path], sentence: str
) -> None:
    with pytest.raises(CorruptArtifact, match=sentence):
        clean(make(tmp_path), tmp_path)


def test_a_file_of_an_older_version_is_to_be_written_again(program: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(respelled(program, tmp_path / "old.pt2", lambda _, content: content), "a") as archive:
        archive.writestr("model/data/weights/model.pt", b"")

    with pytest.raises(CorruptArtifact, match=r"has its weights pickled, as torch wrote them up to 2\.8"):
        clean(tmp_path / "old.pt2", tmp_path)


def test_a_compressed_file_is_refused_before_it_is_unpacked(program: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt2", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr(f"model/{PROGRAM}", b"0" * (8 << 20))

    with pytest.raises(CorruptArtifact, match="is compressed, which torch does not read"):
        clean(tmp_path / "bomb.pt2", tmp_path)


@pytest.mark.parametrize(
    ("entry", "change", "sentence"),
    [
        (PROGRAM, lambda document: document.pop("graph_module"), r"no exported program \(KeyError\)"),
        (PROGRAM, lambda document: document["graph_module"].update(graph=[]), r"no exported program \(TypeError\)"),
        (WEIGHTS, lambda document: document.update(config=[]), r"no exported program \(AttributeError\)"),
    ],
)
def test_a_program_of_another_form_is_refused(
    program: Path, tmp_path: Path, entry: str, change: Callable[[Any], None], sentence: str
) -> None:
    with pytest.raises(CorruptArtifact, match=sentence):
        clean(changed(program, tmp_path / "odd.pt2", entry, change), tmp_path)


def test_a_weight_that_is_missing_or_empty_is_refused(program: Path, tmp_path: Path) -> None:
    missing = respelled(program, tmp_path / "a.pt2", lambda name, content: None if "weight_0" in name else content)
    empty = respelled(program, tmp_path / "b.pt2", lambda name, content: b"" if "weight_0" in name else content)

    with pytest.raises(CorruptArtifact):
        clean(missing, tmp_path)
    with pytest.raises(CorruptArtifact, match="is empty; it should hold a tensor of shape"):
        clean(empty, tmp_path)


def test_truncated_files_and_flipped_bytes_are_found(program: Path, tmp_path: Path) -> None:
    whole = program.read_bytes()
    rng = np.random.default_rng(7)
    spoiled = tmp_path / "spoiled.pt2"
    for size in rng.integers(0, len(whole), 40):
        spoiled.write_bytes(whole[:size])
        with pytest.raises(CorruptArtifact):
            clean(spoiled, tmp_path)
    for at in rng.integers(0, len(whole), 200):
        content = bytearray(whole)
        content[at] ^= 1 << int(rng.integers(8))
        spoiled.write_bytes(content)
        try:
            copy = clean(spoiled, tmp_path)
        except MeshError:
            continue
        # The byte was one that nothing reads: a date, a sample input, the name of the zip's folder.
        assert torch.export.load(copy).state_dict.keys() == torch.export.load(program).state_dict.keys()


class Sized(torch.nn.Module):
    """Sizes in every form that arithmetic on them takes."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        n = x.shape[0]
        return (
            x.reshape(-1),
            x.repeat(2, 1),
            x[: n // 2],
            x.new_zeros(n * n),
            x.new_zeros(max(n - 3, 1)),
            torch.arange(n % 5 + 1),
            torch.nn.functional.interpolate(x[None], scale_factor=1.5),
        )


def test_sizes_that_torch_writes_are_taken(tmp_path: Path) -> None:
    path = export(tmp_path / "m.pt2", Sized(), (torch.randn(8, 4),), {"x": {0: torch.export.Dim.AUTO}})
    rows = torch.randn(8, 4)

    results = torch.export.load(clean(path, tmp_path)).module()(rows)

    for result, wanted in zip(results, Sized()(rows), strict=True):
        torch.testing.assert_close(result, wanted)

"""Checks a `.pt2` file and writes a clean copy that torch may load: torch's own loader would run what the file says.

`torch.export.load` unpickles sample inputs and odd weights, evaluates the texts of symbolic shapes and guards, and
looks up the names of functions in all of torch. Here a program is data: operators of torch's own sets, whole numbers,
names, and arithmetic of a few known functions. What is only for people (stack traces, sample inputs) is left out of the
copy, and what is more than data needs the operator's trust. The zip's checksums, which torch ignores, are verified.

This does not make a stranger's arithmetic harmless: a program may ask for much time or memory. The layout is that of
torch.export.pt2_archive since 2.9. Nothing of torch is imported here.
"""

from __future__ import annotations

import ast
import json
import math
import re
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

from mesh.errors import CorruptArtifact, PermissionDenied

PROGRAM = "models/model.json"
MAX_PROGRAM_BYTES = 256 << 20
EXPORT_HINT = "write it with torch.export.save(torch.export.export(model, example_inputs), 'model.pt2')"

_SAMPLES = "data/sample_inputs/model.pt"
_CONFIGS = {
    "data/weights/": ("data/weights/model_weights_config.json", re.compile(r"weight_\d+")),
    "data/constants/": ("data/constants/model_constants_config.json", re.compile(r"tensor_\d+")),
}
# What says how the archive is to be read; those that older versions of torch did not write may be missing.
_REQUIRED = ("archive_format", "archive_version", ".data/version")
_OPTIONAL = ("byteorder", ".data/serialization_id")
_MAX_SMALL_BYTES = 64
_COPY_BYTES = 1 << 20

# Whatever is a text in a program is a name or one of the options of an operator ("mean", "ij,jk->ik").
_TEXT = re.compile(r"[\w.+<>=,\-]*( ?[\w.+<>=,\-]+)*", re.ASCII)
_MAX_TEXT_CHARS = 4096
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims|higher_order)\.\w+(\.\w+)?", re.ASCII)
_SYMBOLIC = re.compile(
    r"torch\.sym_\w+|math\.(trunc|ceil|floor)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|eq|ne|lt|le|gt|ge|getitem|and_|or_|not_)",
    re.ASCII,
)
# They read files, or take offsets on trust.
_REFUSED_OPERATORS = re.compile(r"torch\.ops\.aten\.(from_file|set_|\w*sparse\w*)(\..*)?", re.ASCII)

_SYMBOL = re.compile(r"[A-Za-z_]+\d*", re.ASCII)
_MAX_EXPRESSION_CHARS = 10_000
_MAX_EXPONENT = 8
_FUNCTIONS = re.compile(
    "Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|Abs|Eq|Ne|Equality|Unequality|Lt|Le|Gt|Ge|StrictLessThan"
    "|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|CeilToInt"
    "|FloorToInt|CeilDiv|PowByNatural|FloatTrueDiv|IntTrueDiv|TruncToFloat|TruncToInt|RoundToInt|ToFloat|Identity"
    "|IsNonOverlappingAndDenseIndicator|floor|ceiling"
)
_ASSUMPTIONS = {"positive", "integer", "nonnegative", "negative", "zero", "nonzero", "real", "finite", "precision"}
_TREES = frozenset(
    {
        "builtins.tuple",
        "builtins.list",
        "builtins.dict",
        "collections.OrderedDict",
        "torch.fx.immutable_collections.immutable_list",
        "torch.fx.immutable_collections.immutable_dict",
    }
)
_MALFORMED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,  # also RecursionError
)


class _MoreThanData(Exception):
    """The program holds what may run code, as the message says."""


def write_clean(path: Path, clean: Path, *, may_run_code: bool) -> Path:
    """The file to load in place of `path`: `clean`, or `path` itself where it is more than data and may be.

    Raises CorruptArtifact for what is no exported program, and PermissionDenied for one that may run code.
    """
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(clean, "w", zipfile.ZIP_STORED) as copy:
            _copy_checked(_Entries(archive, path), copy)
        return clean
    except _MoreThanData as found:
        if may_run_code:
            return path
        raise PermissionDenied(
            f"{path.name} holds {found}, which may run code; an operator who trusts its author sets trust_model_code"
        ) from None
    except _MALFORMED as error:
        raise CorruptArtifact(
            f"{path.name} is truncated or no exported program ({type(error).__name__}); {EXPORT_HINT}"
        ) from error


class _Entries:
    """The entries of a torch archive by their names inside it; everything lies in one folder and is not compressed."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            self._infos[info.filename.partition("/")[2]] = info
        if min((info.header_offset for info in archive.infolist()), default=1) != 0:
            # Of a file that lost its end, a zip inside it may be what is found.
            raise zipfile.BadZipFile
        names = self._infos.keys()
        if any(name == "constants.pkl" or name.startswith("code/") for name in names):
            raise CorruptArtifact(f"{path.name} is a TorchScript file; {EXPORT_HINT}")
        if "data.pkl" in names:
            raise CorruptArtifact(f"{path.name} is what torch.save writes, weights without a program; {EXPORT_HINT}")
        if any(name.startswith("data/aotinductor/") for name in names):
            raise _MoreThanData("machine code of AOTInductor")
        if PROGRAM not in names:
            raise CorruptArtifact(f"{path.name} holds no program named 'model'; {EXPORT_HINT}")
        if "data/weights/model.pt" in names:
            raise CorruptArtifact(f"{path.name} has its weights pickled, as torch wrote them up to 2.8; {EXPORT_HINT}")
        if any(info.compress_type != zipfile.ZIP_STORED for info in self._infos.values()):
            raise CorruptArtifact(f"{path.name} is compressed, which torch does not read; {EXPORT_HINT}")

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def size_bytes(self, name: str) -> int:
        return self._infos[name].file_size

    def read(self, name: str, max_bytes: int) -> bytes:
        if self.size_bytes(name) > max_bytes:
            raise CorruptArtifact(f"'{name}' has {self.size_bytes(name)} bytes; at most {max_bytes}")
        return self._archive.read(self._infos[name])

    def copy(self, name: str, copy: zipfile.ZipFile) -> None:
        info = self._infos[name]
        with self._archive.open(info) as source, _create(copy, name, info.file_size) as target:
            shutil.copyfileobj(source, target, _COPY_BYTES)


def _copy_checked(entries: _Entries, copy: zipfile.ZipFile) -> None:
    for name in (*_REQUIRED, *_OPTIONAL):
        if name in _REQUIRED or name in entries:
            _write(copy, name, entries.read(name, _MAX_SMALL_BYTES))
    program = json.loads(entries.read(PROGRAM, MAX_PROGRAM_BYTES))
    _clean_program(program)
    _write(copy, PROGRAM, json.dumps(program).encode())
    _write(copy, _SAMPLES, b"")
    for folder, (config, file_name) in _CONFIGS.items():
        payloads = json.loads(entries.read(config, MAX_PROGRAM_BYTES))
        _on_cpu(payloads)
        _check_texts(payloads)
        _write(copy, config, json.dumps(payloads).encode())
        for name in dict.fromkeys(_payload_names(entries, folder, file_name, payloads)):
            entries.copy(name, copy)


def _create(copy: zipfile.ZipFile, name: str, size_bytes: int) -> Any:
    return copy.open(f"model/{name}", "w", force_zip64=size_bytes > zipfile.ZIP64_LIMIT)


def _write(copy: zipfile.ZipFile, name: str, content: bytes) -> None:
    copy.writestr(f"model/{name}", content)


def _payload_names(entries: _Entries, folder: str, file_name: re.Pattern[str], payloads: Any) -> list[str]:
    """The entries that hold tensors, after a look at what is said of each."""
    names = []
    for payload in payloads["config"].values():
        if payload["use_pickle"] or not file_name.fullmatch(payload["path_name"]):
            raise _MoreThanData("a pickled tensor or object")
        name = folder + payload["path_name"]
        sizes = [dim["as_int"] for dim in payload["tensor_meta"]["sizes"]]
        # Of an empty file torch makes zeros of any size that is asked for.
        if entries.size_bytes(name) == 0 and math.prod(sizes) != 0:
            raise CorruptArtifact(f"'{name}' is empty; it should hold a tensor of shape {sizes}")
        names.append(name)
    return names


def _clean_program(program: Any) -> None:
    module = program["graph_module"]
    program["guards_code"] = []
    module["metadata"] = {}
    module["treespec_namedtuple_fields"] = {}
    root = [entry for entry in module["module_call_graph"] if entry["fqn"] == ""]
    for entry in root:
        for tree in ("in_spec", "out_spec"):
            _check_tree(json.loads(entry["signature"][tree])[1])
    trees = [(entry["signature"].pop("in_spec"), entry["signature"].pop("out_spec")) for entry in root]
    ranges = program.pop("range_constraints")
    for symbol in ranges:
        _check_expression(symbol)
    _clean_graph(module["graph"])
    module["module_call_graph"] = root
    _on_cpu(program)
    _check_texts(program)
    program["range_constraints"] = {symbol: _whole_limits(limits) for symbol, limits in ranges.items()}
    for entry, (in_spec, out_spec) in zip(root, trees, strict=True):
        entry["signature"] |= {"in_spec": in_spec, "out_spec": out_spec}


def _whole_limits(limits: Any) -> dict[str, int | None]:
    return {name: None if limits[name] is None else int(limits[name]) for name in ("min_val", "max_val")}


def _clean_graph(graph: Any) -> None:
    for node in graph["nodes"]:
        node["metadata"] = {}
        target = node["target"]
        is_known = _OPERATOR.fullmatch(target) or _SYMBOLIC.fullmatch(target)
        if not is_known or _REFUSED_OPERATORS.fullmatch(target):
            raise _MoreThanData(f"the operator '{target[:100]}'")
        for argument in node["inputs"]:
            _clean_argument(argument["arg"])


def _clean_argument(argument: Any) -> None:
    if "as_graph" in argument:
        _clean_graph(argument["as_graph"]["graph"])
    elif "as_operator" in argument or "as_custom_obj" in argument:
        raise _MoreThanData("an object of a class of its own")


def _check_tree(tree: Any) -> None:
    """How a program's inputs or outputs are nested: in tuples, lists and dicts with texts or numbers as keys."""
    if tree["type"] is not None and tree["type"] not in _TREES:
        raise _MoreThanData(f"inputs or outputs of the type '{str(tree['type'])[:100]}'")
    keys = json.loads(tree["context"]) if tree["context"] is not None else None
    if keys is not None and not (isinstance(keys, list) and {type(key) for key in keys} <= {str, int}):
        raise _MoreThanData("inputs or outputs nested by more than texts")
    for child in tree["children_spec"]:
        _check_tree(child)


def _on_cpu(value: Any) -> None:
    """Devices in place: a program is loaded in main memory, wherever it was exported."""
    if isinstance(value, dict):
        if value.keys() == {"type", "index"} and str(value["type"]).startswith("cuda"):
            value |= {"type": "cpu", "index": None}
        for child in value.values():
            _on_cpu(child)
    elif isinstance(value, list):
        for child in value:
            _on_cpu(child)


def _check_texts(value: Any, key: str = "") -> None:
    """Every text is a name, or an expression where one may stand: torch puts both into Python that it runs."""
    if isinstance(value, dict):
        for name, child in value.items():
            _check_texts(name)
            _check_texts(child, name)
    elif isinstance(value, list):
        for child in value:
            _check_texts(child, key)
    elif isinstance(value, str):
        if key == "expr_str":
            _check_expression(value)
        elif len(value) > _MAX_TEXT_CHARS or not _TEXT.fullmatch(value):
            raise _MoreThanData(f"the text {value[:100]!r} in the place of a name")


def _check_expression(text: str) -> None:
    """A size in symbols, as sympy spells it: calls of known functions on symbols and numbers, and plain arithmetic."""
    try:
        tree = ast.parse(text, mode="eval") if len(text) <= _MAX_EXPRESSION_CHARS else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what the parser says of nonsense
        tree = None
    if tree is None or not text.isascii() or not _is_arithmetic(tree.body):
        raise _MoreThanData(f"the expression {text[:100]!r}")


def _is_arithmetic(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and abs(node.value) < 1 << 64
    if isinstance(node, ast.Name):
        return bool(_SYMBOL.fullmatch(node.id)) and "__" not in node.id
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub | ast.UAdd) and _is_arithmetic(node.operand)
    if isinstance(node, ast.BinOp):
        is_operator = isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.Mod)
        return is_operator and _is_arithmetic(node.left) and _is_arithmetic(node.right)
    if isinstance(node, ast.Compare):
        return all(_is_arithmetic(part) for part in (node.left, *node.comparators))
    return isinstance(node, ast.Call) and _is_call(node)


def _is_call(node: ast.Call) -> bool:
    if not isinstance(node.func, ast.Name) or not _FUNCTIONS.fullmatch(node.func.id):
        return False
    # No text as a value: sympy evaluates texts wherever it finds them.
    if any(word.arg not in _ASSUMPTIONS or not _is_switch(word.value) for word in node.keywords):
        return False
    if node.func.id == "Symbol":
        (name,) = node.args
        return isinstance(name, ast.Constant) and isinstance(name.value, str) and bool(_SYMBOL.fullmatch(name.value))
    if node.func.id in ("Float", "Rational", "Integer") and all(_is_number_text(part) for part in node.args):
        return True
    if node.func.id in ("Pow", "PowByNatural"):
        # Of numbers alone a power takes forever.
        base, exponent = node.args
        return isinstance(base, ast.Call) and _is_symbol(base) and _is_small(exponent)
    return all(_is_arithmetic(part) for part in node.args)


def _is_switch(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (bool, int)


def _is_symbol(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == "Symbol" and _is_call(node)


def _is_small(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Integer" and node.args:
        node = node.args[0]
    return isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value <= _MAX_EXPONENT


def _is_number_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(re.fullmatch(r"[\d.]+", node.value))

"""HTTP requests as a hostile client makes them: a good one, with its JSON, bytes, headers and path spoiled.

Cases are small integers, as in infer_messages.py.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any  # JSON

from hypothesis import strategies as st

from tests.fuzz.http_client import HttpRequest
from tests.fuzz.infer_messages import TEXTS

BINARY_HEADER = "inference-header-content-length"


class Raw(str):
    """Text for the body that a JSON library would not write."""


VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**64, -(2**63), 1.5, -0.0, 1e308, "", "text", "\x00",
    "1", [], {}, [[]], [None], {"a": {}}, [1, [2]], ["x"] * 50, [0] * 300, "a" * 3000, "ünïcode", "INT32", "int32_in",
    Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("1e-999"), Raw("9" * 400), Raw("[" * 2000),
    Raw('{"a":' * 1500), Raw('"\\ud800"'), Raw('"\\udfff\\ud800"'), Raw("01"), Raw("'x'"), Raw("nul"), Raw("1."),
    Raw("[" * 600 + "]" * 600), Raw("-"), Raw('"\t"'), Raw(""), Raw("{}{}"), Raw("0x10"), [10**30],
)  # fmt: skip
HEADERS = (
    ("content-encoding", "gzip"), ("content-encoding", "deflate"), ("content-encoding", "br"),
    ("content-encoding", "gzip, gzip"), ("content-encoding", ""), ("content-encoding", "identity"),
    ("content-type", "text/plain"), ("content-type", "application/octet-stream"), ("content-type", "form"),
    ("content-type", "application/json; charset=utf-16"), ("accept-encoding", "gzip"), ("accept-encoding", "*;q=0"),
    ("accept-encoding", "gzip;q=x, ,;"), ("accept", "nothing/at-all"), ("x-request-id", "x" * 3000),
    ("x-request-id", "\x01\xff"), ("x-request-timeout-s", "0"), ("x-request-timeout-s", "-1"),
    ("x-request-timeout-s", "nan"), ("x-request-timeout-s", "1e400"), ("x-request-timeout-s", "soon"),
    ("traceparent", "00-zz-zz-01"), ("traceparent", "x" * 500), ("tracestate", "=,=,="), ("expect", "200-maybe"),
    ("authorization", "Bearer \xff"), ("cookie", ";;;="), ("range", "bytes=0-"), ("if-match", "*"),
    ("x-forwarded-for", "'"), ("host", "elsewhere"), (BINARY_HEADER, "0"), (BINARY_HEADER, "-1"),
    (BINARY_HEADER, "5"), (BINARY_HEADER, "99999999999999999999"), (BINARY_HEADER, "ten"), (BINARY_HEADER, ""),
    (BINARY_HEADER, "1e2"), (BINARY_HEADER, "0x10"), (BINARY_HEADER, "+7"),
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
PATHS = (
    "/", "/v1", "/v2", "/v2/", "/v2/models", "/v2/models/", "/v2/models//infer", "/v2/models/nobody/infer",
    "/v2/models/identity/versions/99/infer", "/v2/models/identity/versions/x/infer", "/v2/models/%00/infer",
    "/v2/models/..%2f..%2fetc/ready", "/v2/models/identity/stats", "/v2/models/stats", "/v2/models/identity/config",
    "/v2/models/%ff%fe/ready", "/v2/health/live", "/v2/health/ready", "/v2/health/dead", "/v2/repository/index",
    "/v2/repository/models/nobody/load", "/v2/repository/models/spare/unload", "/v2/repository/models/spare/load",
    "/v1/models", "/v1/models?format=v1", "/v1/models?format=%ff", "/v1/models/iris", "/v1/models/nobody:predict",
    "/v1/models/:predict", "/v1/models/iris:dance", "/v2/systemsharedmemory/status", "/v2/logging",
    "/v2/trace/setting", "/docs", "/openapi.json", "/metrics", "/v2/models/" + "a" * 4000, "//v2//models",
    "/v2/models/identity/infer?" + "a=b&" * 200, "/v1/embeddings", "/v1/rerank", "/favicon.ico", "*",
)  # fmt: skip


@dataclass
class Draft:
    """A request in the making. tail: binary tensors behind the JSON."""

    method: str
    path: str
    document: Any = None
    tail: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class RestCase:
    """base: a row of `bases`. changes: (a row of CHANGES or, after these, of SPOILS; where; what)."""

    bases: tuple[Callable[[], Draft], ...]
    base: int
    changes: tuple[tuple[int, int, int], ...]

    def request(self) -> HttpRequest:
        """What goes over the wire."""
        draft = self.bases[self.base % len(self.bases)]()
        spoils = []
        for which, where, what in self.changes:
            row = which % (len(CHANGES) + len(SPOILS))
            if row < len(CHANGES):
                CHANGES[row](draft, where, what)
            else:
                spoils.append((SPOILS[row - len(CHANGES)], where, what))
        head = b"" if draft.document is None else written(draft.document).encode("utf-8", "surrogatepass")
        if draft.tail:
            draft.headers.insert(0, (BINARY_HEADER, str(len(head))))
        body = head + draft.tail
        for spoil, where, what in spoils:
            body = spoil(draft, body, where, what)
        return HttpRequest(draft.method, draft.path, tuple(draft.headers), body)

    @property
    def words(self) -> str:
        """What the case is, for a person."""
        request = self.request()
        body = f"{request.body[:400]!r} ({len(request.body)} bytes)"
        return (
            f"{request.method} {request.path[:200]} {str(request.headers)[:300]} {body} of {self.base}, {self.changes}"
        )


def rest_cases(bases: tuple[Callable[[], Draft], ...]) -> st.SearchStrategy[RestCase]:
    change = st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535))
    return st.builds(RestCase, st.just(bases), st.integers(0, 255), st.lists(change, max_size=4).map(tuple))


def written(value: Any) -> str:
    """JSON, with `Raw` as it is."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


# --- good requests


def infer() -> Draft:
    tensor = {"name": "int32_in", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]}
    outputs = [{"name": "int32_out", "parameters": {"binary_data": False}}]
    document = {"id": "r", "parameters": {"a": 1}, "inputs": [tensor], "outputs": outputs}
    return Draft("POST", "/v2/models/identity/infer", document)


def infer_nested() -> Draft:
    tensors = [
        {"name": "fp32_in", "datatype": "FP32", "shape": [2, 2], "data": [[1.5, 2], [3, 4]]},
        {"name": "bytes_in", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "b"]},
        {"name": "int64_in", "datatype": "INT64", "shape": [2, 1], "data": [2**53 + 1, -1]},
        {"name": "bool_in", "datatype": "BOOL", "shape": [2, 1], "data": [True, False]},
        {"name": "fp16_in", "datatype": "FP16", "shape": [2, 1], "data": [1, 2.5]},
    ]
    return Draft("POST", "/v2/models/identity/versions/1/infer", {"inputs": tensors})


def infer_binary() -> Draft:
    tensors = [
        {"name": "fp32_in", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}},
        {"name": "bytes_in", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 5}},
    ]
    document = {"inputs": tensors, "parameters": {"binary_data_output": True}}
    return Draft("POST", "/v2/models/identity/infer", document, bytes(16) + struct.pack("<I", 1) + b"x")


def iris() -> Draft:
    row = {"name": "input", "datatype": "FP64", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}
    return Draft("POST", "/v2/models/iris/infer", {"inputs": [row]})


def predict() -> Draft:
    return Draft("POST", "/v1/models/iris:predict", {"instances": [[5.1, 3.5, 1.4, 0.2]]})


def predict_inputs() -> Draft:
    return Draft("POST", "/v1/models/iris:predict", {"inputs": {"input": [[5.1, 3.5, 1.4, 0.2]]}})


def generate() -> Draft:
    document = {"text_input": "abc", "parameters": {"max_tokens": 2, "temperature": 0}}
    return Draft("POST", "/v2/models/hash/generate", document)


def generate_stream() -> Draft:
    return Draft("POST", "/v2/models/hash/generate_stream", {"text_input": "abc", "parameters": {"max_tokens": 2}})


def index() -> Draft:
    return Draft("POST", "/v2/repository/index", {"ready": True})


def metadata() -> Draft:
    return Draft("GET", "/v2/models/identity")


def completion() -> Draft:
    document = {
        "model": "hash", "prompt": "abc", "max_tokens": 2, "temperature": 0.5, "n": 1, "stop": ["x"], "seed": 1,
        "logprobs": 1, "echo": False, "stream": False, "top_p": 0.9, "logit_bias": {"5": -1}, "presence_penalty": 0.1,
    }  # fmt: skip
    return Draft("POST", "/v1/completions", document)


def completion_stream() -> Draft:
    document = {"model": "hash", "prompt": ["abc", "d"], "max_tokens": 2, "stream": True}
    return Draft("POST", "/v1/completions", document | {"stream_options": {"include_usage": True}})


def chat() -> Draft:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    document = {
        "model": "hash", "messages": messages, "max_completion_tokens": 2, "temperature": 0, "logprobs": True,
        "top_logprobs": 2, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto", "response_format": {"type": "text"},
    }  # fmt: skip
    return Draft("POST", "/v1/chat/completions", document)


def embeddings() -> Draft:
    return Draft("POST", "/v1/embeddings", {"model": "identity", "input": ["a", "b"], "encoding_format": "float"})


def rerank() -> Draft:
    return Draft("POST", "/v1/rerank", {"model": "identity", "query": "a", "documents": ["b", "c"], "top_n": 1})


OIP_BASES = (
    infer, infer_nested, infer_binary, iris, predict, predict_inputs, generate, generate_stream, index, metadata,
)  # fmt: skip
OPENAI_BASES = (completion, completion_stream, chat, embeddings, rerank)


# --- changes to the draft: `where` picks a place in the document, `what` the value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in the document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(items):
        yield value, key
        yield from _places(one)


def _place(draft: Draft, where: int) -> tuple[Any, Any] | None:
    places = list(_places(draft.document))
    return places[where % len(places)] if places else None


def another_value(draft: Draft, where: int, what: int) -> None:
    if place := _place(draft, where):
        place[0][place[1]] = copy.deepcopy(VALUES[what % len(VALUES)])


def a_value_less(draft: Draft, where: int, what: int) -> None:
    if place := _place(draft, where):
        del place[0][place[1]]


def wrapped(draft: Draft, where: int, what: int) -> None:
    if place := _place(draft, where):
        value = place[0][place[1]]
        place[0][place[1]] = [value] * (what % 5) if what % 2 else {"a": value}


def a_value_more(draft: Draft, where: int, what: int) -> None:
    if place := _place(draft, where):
        value = copy.deepcopy(VALUES[(what >> 6) % len(VALUES)])
        if isinstance(place[0], list):
            place[0].append(value)
        else:
            place[0][TEXTS[what % len(TEXTS)]] = value


def another_key(draft: Draft, where: int, what: int) -> None:
    place = _place(draft, where)
    if place and isinstance(place[0], dict):
        place[0][TEXTS[what % len(TEXTS)]] = place[0].pop(place[1])


def another_document(draft: Draft, where: int, what: int) -> None:
    draft.document = copy.deepcopy(VALUES[what % len(VALUES)])


def another_tail(draft: Draft, where: int, what: int) -> None:
    tail = draft.tail
    draft.tail = (tail[: what % (len(tail) + 1)], tail + b"x" * (what % 9), b"\xff" * 16, bytes(4000))[where % 4]


def a_header(draft: Draft, where: int, what: int) -> None:
    draft.headers.append(HEADERS[what % len(HEADERS)])


def another_path(draft: Draft, where: int, what: int) -> None:
    draft.path = PATHS[what % len(PATHS)]


def another_method(draft: Draft, where: int, what: int) -> None:
    draft.method = METHODS[what % len(METHODS)]


CHANGES: tuple[Callable[[Draft, int, int], None], ...] = (
    another_value, another_value, a_value_less, wrapped, a_value_more, another_key, another_document, another_tail,
    a_header, another_path, another_method,
)  # fmt: skip


# --- changes to the body's bytes


def cut_off(draft: Draft, body: bytes, where: int, what: int) -> bytes:
    return body[: what % (len(body) + 1)]


def a_byte_flipped(draft: Draft, body: bytes, where: int, what: int) -> bytes:
    spoiled = bytearray(body or b"{}")
    spoiled[(where * 257 + what) % len(spoiled)] ^= 1 << (what % 8)
    return bytes(spoiled)


def random_bytes(draft: Draft, body: bytes, where: int, what: int) -> bytes:
    return random.Random((where << 16) | what).randbytes(what % 300)


def packed(draft: Draft, body: bytes, where: int, what: int) -> bytes:
    """As the header says, or not quite; and small bodies that become large ones."""
    draft.headers.append(("content-encoding", ("gzip", "deflate")[what % 2]))
    data = (body, b" " * (40 << 20), b"[" * 100_000)[(what >> 1) % 16 % 3 if where % 8 == 0 else 0]
    data = gzip.compress(data, 1) if what % 2 == 0 else zlib.compress(data, 1)
    return (data, data[: len(data) // 2], data + b"garbage", data + data, body)[(what >> 5) % 5]


SPOILS: tuple[Callable[[Draft, bytes, int, int], bytes], ...] = (cut_off, a_byte_flipped, random_bytes, packed)

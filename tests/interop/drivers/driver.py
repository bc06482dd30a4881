"""What the drivers of foreign Python clients have in common: scenarios in on stdin, what the client saw out on stdout.

Runs in the client's own environment, so it imports nothing of ours. A driver is a class with a method for each call it
can make; `why_not` says what its client cannot. Values in scenarios are JSON: 64-bit integers as decimal text, BYTES as
text of one character a byte, large tensors as `{"arange": n}` in and `{"sha256": …}` of the little-endian bytes out.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
import sys
import time
from typing import Any

import numpy as np

EVENTUALLY_S = 30.0
MAX_SHOWN = 100
Json = dict[str, Any]

DTYPES = {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "BF16": "<f4", "FP32": "<f4", "FP64": "<f8", "BYTES": "O",
}  # fmt: skip


class Failed(Exception):
    """The server refused: `code` is gRPC's name of the status, or the HTTP status."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Driver:
    """One client. `plan`: `grpc` (host:port) and `url` (None where there is no HTTP). `form`: how it likes tensors."""

    form = "binary"

    def __init__(self, plan: Json) -> None:
        self.plan = plan

    async def open(self) -> None:
        """Make the client, on the running event loop."""

    def why_not(self, call: str, arguments: Json) -> str | None:
        """Why the client cannot make this call; None when it can."""
        return None

    async def infer_version(self, **arguments: Any) -> Json:
        """`infer`, where the version in the answer matters."""
        found: Json = await self.infer(**arguments)  # type: ignore[attr-defined]
        return found

    async def close(self) -> None:
        """Let the client go."""


def run(driver_class: type[Driver]) -> None:
    """Run the plan on stdin, and print what was seen."""
    sys.stdout.write(json.dumps(asyncio.run(_run_all(driver_class(json.load(sys.stdin))))))


async def _run_all(driver: Driver) -> Json:
    await driver.open()
    seen: Json = {}
    try:
        for scenario in driver.plan["scenarios"]:
            reasons = [_why_not(driver, step) for step in scenario["steps"]]
            reason = next((reason for reason in reasons if reason), None)
            if reason is not None:
                seen[scenario["name"]] = {"cannot": reason}
                continue
            seen[scenario["name"]] = {"steps": [await _run_step(driver, step) for step in scenario["steps"]]}
    finally:
        await driver.close()
    return seen


def _why_not(driver: Driver, step: Json) -> str | None:
    if not hasattr(driver, step["call"]):
        return f"the client has no call for {step['call'].replace('_', ' ')}"
    return driver.why_not(step["call"], _with_form(driver, step["arguments"]))


def _with_form(driver: Driver, arguments: Json) -> Json:
    """`arguments`, with the client's own form where the scenario leaves it to the client."""
    return {**arguments, "form": driver.form} if arguments.get("form") == "any" else arguments


async def _run_step(driver: Driver, step: Json) -> Json:
    deadline = time.monotonic() + EVENTUALLY_S
    while True:
        found = await _call(driver, step)
        if "eventually" not in step or found == step["eventually"] or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.1)


async def _call(driver: Driver, step: Json) -> Json:
    try:
        found: Json = await getattr(driver, step["call"])(**_with_form(driver, step["arguments"]))
    except Failed as error:
        return {"error": error.code, "message": str(error)}
    except Exception as error:  # the client's own, in sending or in reading: a finding like any other
        return {"error": f"client raised {type(error).__name__}", "message": str(error)}
    return found


def array_of(tensor: Json) -> np.ndarray:
    """The values of a tensor, in its shape; BF16 as float32."""
    data, datatype = tensor["data"], tensor["datatype"]
    if isinstance(data, dict):
        return np.arange(data["arange"], dtype=DTYPES[datatype]).reshape(tensor["shape"])
    if datatype == "BYTES":
        array = np.empty(len(data), dtype=np.object_)
        array[:] = [text.encode("latin-1") for text in data]
        return array.reshape(tensor["shape"])
    values = [int(value) for value in data] if datatype in ("INT64", "UINT64") else data
    return np.array(values, dtype=DTYPES[datatype]).reshape(tensor["shape"])


def is_text(tensor: Json) -> bool:
    """Whether BYTES are UTF-8, which is all that some clients send or read."""
    try:
        for value in array_of(tensor).ravel():
            value.decode()
    except UnicodeDecodeError:
        return False
    return True


def tensor_json(datatype: str, shape: Any, array: Any) -> Json:
    """An output as the scenarios have it."""
    flat = np.asarray(array).ravel()
    return {"datatype": datatype, "shape": [int(dimension) for dimension in shape], "data": _values(datatype, flat)}


def _values(datatype: str, flat: np.ndarray) -> Any:
    if flat.size > MAX_SHOWN:
        return {"sha256": hashlib.sha256(flat.astype(DTYPES[datatype]).tobytes()).hexdigest()}
    if datatype == "BYTES":
        return [(value if isinstance(value, bytes) else str(value).encode()).decode("latin-1") for value in flat]
    if datatype in ("INT64", "UINT64"):
        return [str(value) for value in flat.tolist()]
    if datatype.startswith(("FP", "BF")):
        return [value if np.isfinite(value) else repr(value) for value in map(float, flat.tolist())]
    return flat.tolist()


def raw_bytes(tensor: Json) -> bytes:
    """A tensor's raw contents."""
    array = array_of(tensor)
    if tensor["datatype"] == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in array.ravel())
    if tensor["datatype"] == "BF16":
        return (array.view("<u4") >> 16).astype("<u2").tobytes()
    return array.tobytes()


def array_from_raw(datatype: str, shape: Any, raw: bytes) -> np.ndarray:
    """The reverse of `raw_bytes`."""
    if datatype == "BYTES":
        elements = []
        while raw:
            (length,) = struct.unpack_from("<I", raw)
            elements.append(raw[4 : 4 + length])
            raw = raw[4 + length :]
        array = np.empty(len(elements), dtype=np.object_)
        array[:] = elements
        return array.reshape(shape)
    if datatype == "BF16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    return np.frombuffer(raw, DTYPES[datatype]).reshape(shape)

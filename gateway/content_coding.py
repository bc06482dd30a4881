"""gzip and deflate on HTTP bodies: unpacked within a limit, packed when the client asks and it pays.

A packed body of a few kilobytes can unpack to gigabytes, so the limit is held while unpacking: never more than one byte
beyond it is made. `deflate` is zlib's format, as RFC 9110 ("Content Codings") has it and Triton's clients send it. What
the bodies hold, and where they come from, is not known here.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from mesh.errors import InvalidInput, MessageTooLarge
from mesh.names import shown

GZIP, DEFLATE = "gzip", "deflate"

_WINDOW_BITS = {GZIP: 16 + zlib.MAX_WBITS, DEFLATE: zlib.MAX_WBITS}
_SAME_AS = {"x-gzip": GZIP, GZIP: GZIP, DEFLATE: DEFLATE}
_STEP_BYTES = 1 << 16
# The fastest: what a gateway sends crosses a fast network more often than a slow one.
_LEVEL = 1
_SAMPLE_BYTES = 1 << 16
# Packing that saves less than a tenth costs more than it saves.
_WORTH_IT = 0.9

Buffer = bytes | bytearray | memoryview


class UnknownCoding(InvalidInput):
    """A body in a coding that is not known here."""

    @property
    def http_status(self) -> int:
        return 415


def coding_of(content_encoding: str | None) -> str | None:
    """The coding that the header names; None for a body as it is. Raises UnknownCoding."""
    name = (content_encoding or "").strip().lower()
    if name in ("", "identity"):
        return None
    if name not in _SAME_AS:
        raise UnknownCoding(f"content-encoding {shown(name)} is not known; known are gzip and deflate")
    return _SAME_AS[name]


def accepted_coding(accept_encoding: str | None) -> str | None:
    """The coding to answer in: the one that the client likes best, gzip of two equals; None when it asks for none."""
    if not accept_encoding:
        return None
    likes: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        name, _, parameter = part.partition(";")
        likes[name.strip()] = _quality(parameter)
    rest = likes.get("*", 0.0)
    quality = {coding: likes.get(coding, rest) for coding in (GZIP, DEFLATE)}
    best = max(quality, key=lambda coding: quality[coding])
    return best if quality[best] > 0 else None


def unpack(coding: str, body: Buffer, max_bytes: int) -> bytearray:
    """The body as it was. Raises MessageTooLarge once it has more than `max_bytes`, InvalidInput when it is broken.

    gzip may have several members one after another (RFC 1952), as `cat` makes them.
    """
    unpacked = bytearray()
    stream = zlib.decompressobj(_WINDOW_BITS[coding])
    view = memoryview(body)
    for start in range(0, len(view), _STEP_BYTES):
        packed: Buffer = view[start : start + _STEP_BYTES]
        while packed:
            if stream.eof:
                stream = _next_member(coding, len(packed))
            try:
                unpacked += stream.decompress(packed, max_bytes - len(unpacked) + 1)
            except zlib.error:
                raise InvalidInput(f"the body is not {coding}, as its content-encoding says it is") from None
            if len(unpacked) > max_bytes:
                raise MessageTooLarge(f"the unpacked body is larger than the limit of {max_bytes} bytes")
            packed = stream.unused_data if stream.eof else stream.unconsumed_tail
    if not stream.eof:
        raise InvalidInput(f"the {coding} stream of the body ends too early")
    return unpacked


def pack(coding: str, parts: Sequence[Buffer]) -> bytes | None:
    """`parts` joined and packed; None when that saves too little, which the first of them tells."""
    size_bytes = sum(len(part) for part in parts)
    if size_bytes > _SAMPLE_BYTES and not _is_worth_it(parts):
        return None
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[coding])
    packed = b"".join([*(stream.compress(part) for part in parts), stream.flush()])
    return packed if len(packed) < _WORTH_IT * size_bytes else None


def _next_member(coding: str, num_bytes: int) -> zlib._Decompress:
    if coding != GZIP:
        raise InvalidInput(f"the body has {num_bytes} bytes behind its {coding} stream")
    return zlib.decompressobj(_WINDOW_BITS[coding])


def _is_worth_it(parts: Sequence[Buffer]) -> bool:
    # The largest part decides: before tensors in binary form stands a little JSON, which always packs well.
    sample = memoryview(max(parts, key=len))[:_SAMPLE_BYTES]
    return len(zlib.compress(sample, _LEVEL)) < _WORTH_IT * len(sample)


def _quality(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0

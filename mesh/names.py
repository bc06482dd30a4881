"""What may be called what: one rule for the names of models, deployments, prompts, aliases and tags.

A name travels in URLs, metric labels, file names and Kubernetes objects, so it is what all of them take: lower-case
letters, digits, '-', '_' and '.', at most 63 characters (RFC 1123's label, widened by '_' and '.'). ASCII only, so no
look-alike of another alphabet can stand for a known name.
"""

from __future__ import annotations

import re

from mesh.errors import InvalidInput

MAX_NAME_CHARS = 63

_NAME = re.compile(r"[a-z0-9]([-a-z0-9_.]*[a-z0-9])?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_URI = re.compile(r"[a-z][a-z0-9+.-]*://[^\x00-\x1f\x7f]+", re.ASCII)
_MAX_URI_CHARS = 2048
_SHOWN_CHARS = 40


def check_name(name: str, field: str) -> str:
    """Return `name`; raise InvalidInput that names `field` when it is not a valid name."""
    if not name:
        raise InvalidInput(f"{field} is empty", field=field)
    if len(name) > MAX_NAME_CHARS:
        raise InvalidInput(
            f"{field} {shown(name)} has {len(name)} characters; the limit is {MAX_NAME_CHARS}", field=field
        )
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{field} {shown(name)} is not a valid name: use a-z, 0-9, '-', '_' and '.', "
            "and begin and end with a letter or digit",
            field=field,
        )
    return name


def check_sha256(digest: str, field: str) -> str:
    """Return `digest`, 64 lower-case hexadecimal digits or empty; raise InvalidInput otherwise."""
    if digest and not _SHA256.fullmatch(digest):
        raise InvalidInput(
            f"{field} {shown(digest)} is not a SHA-256: it needs 64 lower-case hexadecimal digits", field=field
        )
    return digest


def check_uri(uri: str, field: str) -> str:
    """Return `uri`, which is 'scheme://…' of at most 2048 characters; raise InvalidInput otherwise."""
    if len(uri) > _MAX_URI_CHARS:
        raise InvalidInput(f"{field} has {len(uri)} characters; the limit is {_MAX_URI_CHARS}", field=field)
    if not _URI.fullmatch(uri):
        raise InvalidInput(f"{field} {shown(uri)} is not a URI like 'file:///models/m.gguf'", field=field)
    return uri


def check_text(text: str, field: str, max_chars: int) -> str:
    """Return `text`; raise InvalidInput when it has more than `max_chars` characters."""
    if len(text) > max_chars:
        raise InvalidInput(f"{field} has {len(text)} characters; the limit is {max_chars}", field=field)
    return text


def check_address(address: str, field: str) -> str:
    """Return `address`, which is 'host:port' with a port of 1..65535; raise InvalidInput otherwise."""
    host, separator, port = address.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535
    if not separator or not host or not is_port or len(address) > 255 or not address.isprintable() or " " in address:
        raise InvalidInput(f"{field} {shown(address)} is not host:port with a port of 1..65535", field=field)
    return address


def shown(text: str) -> str:
    """`text` quoted for an error sentence: escapes what does not print, cuts what is long."""
    return ascii(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")

"""What travels with a request through a process: its id, its deadline, whose it is, and a look at its headers.

Held in a context variable, so that logs, errors and calls to the next hop find it without passing it by hand. Trace
context travels beside it, in OpenTelemetry's own context.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from hashlib import blake2b

from mesh.errors import InvalidInput

REQUEST_ID_HEADER = "x-request-id"
TENANT_HEADER = "x-tenant"
PRIORITY_HEADER = "x-priority"
SESSION_HEADER = "x-session-id"
MAX_PRIORITY = 100

_SAFE_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}\Z")
_INTEGER = re.compile(r"-?[0-9]{1,3}\Z")


def no_header(_name: str) -> str | None:
    """The headers of a request that has none."""
    return None


@dataclass(frozen=True, slots=True)
class RequestContext:
    """request_id: from the client, or made at the first hop. deadline: in time.monotonic() seconds; None: none.

    header: the value of an HTTP header or gRPC metadata entry as it came, by its name in lower case; None: not there.
    tenant: whose it is; empty: nobody said. priority: -100 to 100; where requests queue, higher ones go first. session:
    requests of one session belong on one replica, where the balancing policy looks at it; empty: of none.
    """

    request_id: str
    deadline: float | None = None
    header: Callable[[str], str | None] = field(default=no_header, compare=False, repr=False)
    tenant: str = ""
    priority: int = 0
    session: str = ""


_current: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)


def current() -> RequestContext | None:
    """The context of the request that is being handled; None outside of one."""
    return _current.get()


def enter(context: RequestContext) -> Token[RequestContext | None]:
    """Make `context` the current one until `leave` gets what this gives: `bind`, for the path of every request."""
    return _current.set(context)


def leave(token: Token[RequestContext | None]) -> None:
    """Make the context before `enter` the current one again."""
    _current.reset(token)


@contextmanager
def bind(context: RequestContext) -> Iterator[None]:
    """Make `context` the current one inside the block."""
    token = enter(context)
    try:
        yield
    finally:
        leave(token)


def remaining_s(default: float | None = None, now: Callable[[], float] = time.monotonic) -> float | None:
    """Seconds left of the current request's deadline, at least 0; `default` when it has none."""
    context = _current.get()
    if context is None or context.deadline is None:
        return default
    return max(0.0, context.deadline - now())


def header(name: str) -> str | None:
    """A header of the current request, by its name in lower case; None when it is not there."""
    context = _current.get()
    return None if context is None else context.header(name)


def new_request_id() -> str:
    """A fresh id, unique without coordination."""
    return os.urandom(16).hex()


def request_id_from(value: str | None) -> str:
    """The client's id when it is safe to log and to send on (1–128 letters, digits, . _ : -); else a fresh one."""
    return value if value and _SAFE_ID.match(value) else new_request_id()


def tenant_from(value: str | None) -> str:
    """The tenant that a header names; empty when there is none. Raises InvalidInput for what is not safe to log."""
    if not value:
        return ""
    if not _SAFE_ID.match(value):
        raise InvalidInput(f"{TENANT_HEADER} must be 1 to 128 letters, digits or . _ : -", field=TENANT_HEADER)
    return value


def session_from(value: str | None) -> str:
    """The session that a header names, fit to be sent on; empty when there is none.

    Never refused, since it only hints: what is longer, or of other characters, than an id is replaced by its hash.
    """
    if not value or _SAFE_ID.match(value):
        return value or ""
    return blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def priority_from(value: str | None) -> int:
    """The priority that a header gives; 0 when there is none. Raises InvalidInput outside of -100 to 100."""
    if not value:
        return 0
    priority = int(value) if _INTEGER.match(value) else MAX_PRIORITY + 1
    if abs(priority) > MAX_PRIORITY:
        sentence = f"{PRIORITY_HEADER} must be a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}"
        raise InvalidInput(sentence, field=PRIORITY_HEADER)
    return priority

"""The process in which a user's class runs: loads it, then answers one message at a time from a socket.

    python -m predictor.runtimes.python.worker FD PARENT_PID MEMORY_LIMIT_BYTES

What it says and hears are frames (`frames.py`); their first words are the constants below. It knows nothing of
requests, queues or time: who asks decides when this process has had long enough. It ends when the socket does.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import resource
import socket
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from predictor.parent_process import die_with_parent
from predictor.runtimes.python import frames
from predictor.runtimes.python.frames import Array, Frame, NamedArray
from predictor.runtimes.python.user_class import ClassMistake, Declaration, check_answer, find_class, read_declaration

# What is heard (the message's "do").
LOAD, INFER, STREAM, NEXT, STOP, UNLOAD = "load", "infer", "stream", "next", "stop", "unload"
# What is said (the message's "kind"). MISTAKE: the class or its answer is not as it must be. FAULT: it raised.
READY, ANSWER, END = "ready", "answer", "end"
BAD_INPUT, MISTAKE, FAULT, NO_MEMORY = "bad_input", "mistake", "fault", "no_memory"

# A ValueError of a class with this name says that the request is to blame, in words for who sent it.
BAD_INPUT_CLASS = "BadInput"

_MAX_TRACEBACK_CHARS = 16_000
_MAX_SENTENCE_CHARS = 1000


class Worker:
    """Serves `peer`, a connected socket, which it owns."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._loop = asyncio.new_event_loop()  # for those methods of the class that are coroutines
        self._model: Any = None
        self._declaration: Declaration | None = None

    def serve(self) -> None:
        """Answer until the peer says UNLOAD. Raises EOFError when the peer is gone."""
        while True:
            frame = self._receive()
            word = frame.message["do"]
            if word == UNLOAD:
                self._call("unload", optional=True)
                return
            self._reply(word, frame)

    def _reply(self, word: str, frame: Frame) -> None:
        try:
            if word == LOAD:
                self._send(self._load(frame.message))
            elif word == INFER:
                self._send_answer(self._call("infer", frame.arrays), self._batch_size(frame.arrays))
            elif word == STREAM:
                self._stream(frame.arrays)
            else:  # NEXT or STOP for a stream that has ended meanwhile
                self._send({"kind": END})
        except ClassMistake as mistake:
            self._send({"kind": MISTAKE, "sentence": str(mistake)[:_MAX_SENTENCE_CHARS]})
        except MemoryError:
            self._send({"kind": NO_MEMORY, "traceback": _traceback()})
        # Whatever the class raises: it must not end the process, and the log is to have it.
        except Exception as error:
            self._send(_fault(error))

    def _load(self, message: Mapping[str, Any]) -> dict[str, Any]:
        folder = Path(message["folder"])
        self._model = find_class(folder, message["model_class"])()
        self._call("load", str(folder), optional=True)
        declared = self._declaration = read_declaration(self._model, message["max_batch_size"])
        if not (declared.has_infer or declared.has_stream):
            raise ClassMistake(f"{type(self._model).__name__} has no method 'infer' or 'infer_stream'")
        return {
            "kind": READY,
            "inputs": [(spec.name, spec.datatype, spec.shape, spec.is_optional) for spec in declared.inputs],
            "outputs": [(spec.name, spec.datatype, spec.shape, False) for spec in declared.outputs],
            "max_batch_size": declared.max_batch_size,
            "has_infer": declared.has_infer,
            "has_stream": declared.has_stream,
            "memory_bytes": _resident_bytes(),
        }

    def _stream(self, arrays: Mapping[str, Array]) -> None:
        """One answer each time that the peer says NEXT; the class's generator is closed when it says STOP."""
        answers = self._model.infer_stream(dict(arrays))
        if not (inspect.isgenerator(answers) or inspect.isasyncgen(answers)):
            raise ClassMistake("'infer_stream' must be a generator: it gives each answer by 'yield'")
        try:
            while True:
                try:
                    answer = self._next(answers)
                except (StopIteration, StopAsyncIteration):
                    self._send({"kind": END})
                    return
                self._send_answer(answer, None)
                if self._receive().message["do"] != NEXT:
                    # The class's own clean-up, before it is told that all is done.
                    self._close(answers)
                    self._send({"kind": END})
                    return
        finally:
            self._close(answers)

    def _next(self, answers: Any) -> object:
        if inspect.isgenerator(answers):
            return next(answers)
        return self._loop.run_until_complete(anext(answers))

    def _close(self, answers: Any) -> None:
        if inspect.isgenerator(answers):
            answers.close()
        else:
            self._loop.run_until_complete(answers.aclose())

    def _call(self, name: str, *arguments: object, optional: bool = False) -> object:
        method = getattr(self._model, name, None)
        if method is None and optional:
            return None
        result = method(*arguments)  # type: ignore[misc]  # that it is callable was found out when it was loaded
        return self._loop.run_until_complete(result) if inspect.iscoroutine(result) else result

    def _batch_size(self, arrays: Mapping[str, Array]) -> int | None:
        assert self._declaration is not None, "LOAD comes first"
        if self._declaration.max_batch_size == 0 or not arrays:
            return None
        return len(next(iter(arrays.values())))

    def _send_answer(self, answer: object, batch_size: int | None) -> None:
        assert self._declaration is not None, "LOAD comes first"
        self._send({"kind": ANSWER}, check_answer(self._declaration, answer, batch_size))

    def _send(self, message: Mapping[str, Any], arrays: Iterable[NamedArray] = ()) -> None:
        try:
            buffers = frames.encode(message, arrays)
        except frames.FrameError as error:
            raise ClassMistake(f"the answer is too large: {error}") from error
        for buffer in buffers:
            self._peer.sendall(buffer)

    def _receive(self) -> Frame:
        header_bytes, body_bytes = frames.sizes(self._read(frames.PREFIX.size).data)
        header = self._read(header_bytes)
        return frames.decode(header.data, self._read(body_bytes))

    def _read(self, num_bytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        content = np.empty(num_bytes, np.uint8)
        view = content.data
        read = 0
        while read < num_bytes:
            count = self._peer.recv_into(view[read:])
            if count == 0:
                raise EOFError
            read += count
        return content


def _fault(error: Exception) -> dict[str, Any]:
    """`what`: for whoever sent the request; `traceback`: for the log only."""
    if isinstance(error, ValueError) and BAD_INPUT_CLASS in {kind.__name__ for kind in type(error).__mro__}:
        return {"kind": BAD_INPUT, "sentence": str(error)[:_MAX_SENTENCE_CHARS]}
    what = type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name:
        what = f"the package '{error.name}' is not installed"
    elif isinstance(error, SyntaxError):
        what = f"{Path(error.filename or '').name} line {error.lineno}: {error.msg}"
    return {"kind": FAULT, "what": what, "traceback": _traceback()}


def _traceback() -> str:
    return traceback.format_exc()[-_MAX_TRACEBACK_CHARS:]


def _resident_bytes() -> int:
    """The most that this process has had of memory, which while it is young is about what it has."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(argv: list[str]) -> int:
    """Run one process to its end; returns the exit status."""
    fd, parent_pid, memory_limit_bytes = (int(argument) for argument in argv)
    die_with_parent(parent_pid)
    os.set_inheritable(fd, False)  # programs that the class starts have no part in this
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_limit_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))
    # Without a parent nobody is left to tell.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        Worker(socket.socket(fileno=fd)).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

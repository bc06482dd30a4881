"""A process that renders Jinja templates from model files: untrusted code, so it gets a process of its own.

Jinja's sandbox stops a template from reaching out; it does not stop `{% for %}` in `{% for %}` or a string of 10 GB.
Here the kernel does: a timer ends this process when a job takes too much CPU time, and its address space is limited.
Frames on stdin and stdout are a 4-byte big-endian length and JSON. The file imports nothing of the mesh: it starts in
0.1 s. The environment is that of Hugging Face `transformers`, for which chat templates are written.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, BinaryIO

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

LENGTH = struct.Struct(">I")
REFUSED, FAULT = "refused", "fault"


class RefusedByTemplate(TemplateError):
    """The template called `raise_exception`: it does not take this conversation."""


class Generation(Extension):
    """`{% generation %}` marks what a model said, for training; the text inside is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 -- jinja2's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def answer(job: dict[str, Any], max_chars: int) -> dict[str, object]:
    """The reply to a job {template, variables: [{…}, …]}: {"texts": […]}, or {"error": REFUSED|FAULT, "message"}."""
    try:
        template = _compiled(job["template"])
        return {"texts": [_render(template, variables, max_chars) for variables in job["variables"]]}
    except RefusedByTemplate as error:
        return {"error": REFUSED, "message": str(error.message)[:500]}
    except MemoryError:
        return {"error": FAULT, "message": "needs more memory than it may use"}
    # Whatever a template's code can raise is the template's fault: it must not end this process.
    except Exception as error:
        return {"error": FAULT, "message": f"fails with {type(error).__name__}: {error}"[:500]}


class OutputTooLong(Exception):
    """The template wrote more than it may."""


def _render(template: Template, variables: dict[str, Any], max_chars: int) -> str:
    now_s = variables.pop("now_s")

    def strftime_now(format: str) -> str:
        return datetime.fromtimestamp(now_s).strftime(format)

    parts: list[str] = []
    num_chars = 0
    for part in template.generate(variables, strftime_now=strftime_now):
        num_chars += len(part)
        if num_chars > max_chars:
            raise OutputTooLong(f"more than {max_chars} characters of output")
        parts.append(part)
    return "".join(parts)


@lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    return _environment().from_string(source)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML; a prompt is not HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise RefusedByTemplate(message)


def _frames(stream: BinaryIO) -> Iterator[bytes]:
    while len(header := stream.read(LENGTH.size)) == LENGTH.size:
        yield stream.read(LENGTH.unpack(header)[0])


def main(cpu_limit_s: float, memory_limit_bytes: int, max_chars: int) -> None:
    """Answer jobs until stdin closes."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _environment()
    for frame in _frames(sys.stdin.buffer):
        # The default action of SIGPROF ends the process, whatever it does; the parent starts another. CPU time, since a
        # busy machine is not the template's fault, and a template cannot wait for anything.
        signal.setitimer(signal.ITIMER_PROF, cpu_limit_s)
        reply = json.dumps(answer(json.loads(frame), max_chars)).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(LENGTH.pack(len(reply)) + reply)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

"""gRPC ignores channel arguments that it does not know, so a misspelt one has no effect and says nothing."""

from __future__ import annotations

from pathlib import Path

from grpc._cython import cygrpc

from mesh.channel import _OPTIONS
from mesh.serve import server_options


def test_every_channel_argument_is_one_that_the_library_knows() -> None:
    library = Path(cygrpc.__file__).read_bytes()

    unknown = [name for name, _ in (*_OPTIONS, *server_options(1024)) if name.encode() not in library]

    assert unknown == []

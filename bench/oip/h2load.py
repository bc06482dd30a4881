"""h2load as the client: nghttp2's load generator, which costs a tenth of what a client in Python does.

It speaks HTTP/1.1 and HTTP/2, so gRPC as well; of a gRPC status it knows nothing, so what came is weighed: an error has
no message. Debian has it in the package nghttp2-client.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.oip.load import BadLoad, Load, Run
from bench.oip.message import MODEL_INFER, REST_PATH

HOW_TO_INSTALL = "apt-get install nghttp2-client"
_FINISHED = re.compile(r"finished in ([\d.]+)(us|ms|s),")
_SUCCEEDED = re.compile(r"(\d+) succeeded")
_DATA = re.compile(r"\((\d+)\) data")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_GRPC_PREFIX_BYTES = 5


def is_installed() -> bool:
    return shutil.which("h2load") is not None


@dataclass(frozen=True, slots=True)
class H2Load:
    """is_grpc: else JSON over HTTP/1.1. request: the message or body. response_bytes: of one right answer, about."""

    is_grpc: bool
    request: bytes
    response_bytes: int

    async def run(self, port: int, load: Load, folder: Path) -> Run:
        """Send the load to one port. Raises BadLoad when an answer failed."""
        body = folder / f"body-{port}"
        body.write_bytes((b"\0" + len(self.request).to_bytes(4, "big") if self.is_grpc else b"") + self.request)
        log = folder / f"h2load-{port}.tsv"
        log.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            *self._command(port, load, body, log), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output = (await process.communicate())[0].decode(errors="replace")
        return self._read(output, log, load)

    def _command(self, port: int, load: Load, body: Path, log: Path) -> list[str]:
        count = ("-n", str(load.num_requests), "-d", str(body), f"--log-file={log}")
        url = f"http://127.0.0.1:{port}"
        if self.is_grpc:
            # One connection, as a client of gRPC has.
            headers: tuple[str, ...] = ("-H", "content-type: application/grpc", "-H", "te: trailers")
            return ["h2load", *count, "-c", "1", "-m", str(load.concurrency), *headers, url + MODEL_INFER]
        headers = ("-H", "content-type: application/json")
        return ["h2load", "--h1", *count, "-c", str(load.concurrency), *headers, url + REST_PATH]

    def _read(self, output: str, log: Path, load: Load) -> Run:
        finished, succeeded, data = _FINISHED.search(output), _SUCCEEDED.search(output), _DATA.search(output)
        if finished is None or succeeded is None or data is None:
            raise BadLoad(f"h2load said: {output[-300:]}")
        if int(succeeded[1]) < load.num_requests:
            raise BadLoad(f"{load.num_requests - int(succeeded[1])} of {load.num_requests} requests failed")
        framed_bytes = self.response_bytes + (_GRPC_PREFIX_BYTES if self.is_grpc else 0)
        # Some servers give each answer an id, whose length may differ by a few bytes.
        if int(data[1]) < 0.9 * framed_bytes * load.num_requests:
            raise BadLoad(f"answers of {int(data[1])} bytes in all, where {framed_bytes} each were right")
        rows = (line.split("\t") for line in log.read_text(encoding="utf-8").splitlines())
        return Run(float(finished[1]) * _SECONDS[finished[2]], tuple(int(row[2]) / 1e6 for row in rows))

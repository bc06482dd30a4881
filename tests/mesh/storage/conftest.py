"""Real wheels, a real pip, a real little index: what the tests of mesh.storage fetch from."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mesh.storage import Report, Stage

PROCESS = Path(__file__).parent / "fetching_process.py"
REPOSITORY = Path(__file__).parents[3]

MakeWheel = Callable[..., Path]


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """The folder that pip is told to find wheels in."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture
def make_wheel(wheels: Path) -> MakeWheel:
    """Builds `tiny_model-1.0` from {path: content} and puts it where pip finds it."""

    def make(members: dict[str, bytes], *, requires_python: str = ">=3", requires: str = "pip") -> Path:
        name, version = "tiny_model", "1.0"
        path = wheels / f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        described = {
            f"{info}/METADATA": (
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
                f"Requires-Python: {requires_python}\nRequires-Dist: {requires}\n"
            ).encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in (members | described).items():
                archive.writestr(member, content)
        return path

    return make


@pytest.fixture
def pip_environment(wheels: Path) -> dict[str, str]:
    """pip sees the folder `wheels` and nothing else of this machine's configuration."""
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_RETRIES": "0",
    }


@dataclass
class Recorder:
    """A report that remembers; `reached` is set once `stage` was seen."""

    seen: list[tuple[Stage, int, int | None]] = field(default_factory=list)

    def __call__(self, stage: Stage, done_bytes: int, total_bytes: int | None) -> None:
        self.seen.append((stage, done_bytes, total_bytes))

    @property
    def stages(self) -> list[Stage]:
        """Each stage once, in the order of their first report."""
        return list(dict.fromkeys(stage for stage, _, _ in self.seen))


@pytest.fixture
def report() -> Recorder:
    return Recorder()


@pytest.fixture
def ignore() -> Report:
    return lambda stage, done_bytes, total_bytes: None


@pytest.fixture
def leftovers() -> Callable[[Path], list[str]]:
    """The artifacts, whole or half, that lie in a cache folder; its lock files do not count."""

    def find(root: Path) -> list[str]:
        files = (path.relative_to(root) for path in root.rglob("*"))
        return sorted(str(path) for path in files if path.parts[0] != "locks" and (root / path).is_file())

    return find


@pytest.fixture
def process_command(pip_environment: dict[str, str]) -> Callable[..., list[str]]:
    """The command line of a process of its own that fetches; see fetching_process.py."""
    environment = [f"--pip={name}={value}" for name, value in pip_environment.items()]

    def command(uri: str, cache_dir: Path, *options: str) -> list[str]:
        return [sys.executable, str(PROCESS), str(REPOSITORY), uri, str(cache_dir), *environment, *options]

    return command


class Index:
    """A package index on a free port that serves one wheel, as well or as badly as it is told."""

    def __init__(self, wheel: Path) -> None:
        self.status = 200
        self.digest: str | None = None
        self.num_bytes_sent: int | None = None
        self.stalls = False
        self.wheel = wheel
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/simple"

    def environment(self) -> dict[str, str]:
        return {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.url,
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_FIND_LINKS": "",
            "PIP_RETRIES": "0",
            "PIP_RESUME_RETRIES": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/simple/tiny-model"):
                    self._answer(index.status, "text/html", index.page(), None)
                elif self.path.startswith("/files/"):
                    self._answer(200, "application/zip", index.wheel.read_bytes(), index.num_bytes_sent)
                    if index.stalls:
                        index.released.wait(60)
                else:
                    self._answer(404, "text/plain", b"", None)

            def _answer(self, status: int, kind: str, body: bytes, num_bytes_sent: int | None) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:num_bytes_sent])
                self.wfile.flush()

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def page(self) -> bytes:
        digest = self.digest or hashlib.sha256(self.wheel.read_bytes()).hexdigest()
        return f'<a href="/files/{self.wheel.name}#sha256={digest}">{self.wheel.name}</a>'.encode()


@pytest.fixture
def index(make_wheel: MakeWheel) -> Iterator[Index]:
    """Serves tiny_model 1.0 with the incompressible `tiny_model/weights.bin`, 2 MiB."""
    wheel = make_wheel({"tiny_model/weights.bin": os.urandom(2 << 20)})
    index = Index(wheel)
    try:
        yield index
    finally:
        index.close()

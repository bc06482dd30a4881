"""From a specification to a model that answers: real files, real refusals, and progress in the log."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from structlog.testing import capture_logs

from mesh.errors import CorruptArtifact, MeshError, NotFound, Unavailable
from mesh.storage.disk import sha256_of
from predictor.loader import ModelLoader, ModelSpec, ProgressLog
from predictor.runtimes import RUNTIMES
from predictor.runtimes.base import ModelArtifact, OnHealth, Progress
from tests.predictor.fake_runtime import IdentityRuntime


class BrokenRuntime(IdentityRuntime):
    """Fails to load, and remembers that it was unloaded all the same."""

    made: ClassVar[list[BrokenRuntime]] = []

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        self.made.append(self)
        raise CorruptArtifact(f"{artifact.path.name} is broken")


def on_health(is_healthy: bool, reason: str) -> None:
    raise AssertionError("nothing is lost here")


def iris(folder: Path, **fields: str) -> ModelSpec:
    return ModelSpec(**{"name": "iris", "model_format": "sklearn", "storage_uri": str(folder), **fields})  # type: ignore[arg-type]


async def test_a_loaded_model_answers_and_knows_its_digest(iris_folder: Path, tmp_path: Path) -> None:
    model = await ModelLoader(tmp_path, RUNTIMES).load(iris(iris_folder), on_health)

    answer = await model.runtime.infer({"input": np.array([[5.1, 3.5, 1.4, 0.2]])})

    assert answer["label"].tolist() == [0]
    assert model.digest == sha256_of(iris_folder, lambda _: None)
    assert model.metadata.platform == "sklearn_skops"
    await model.runtime.unload()


async def test_progress_is_in_the_log_stage_by_stage(iris_folder: Path, tmp_path: Path) -> None:
    with capture_logs() as events:
        model = await ModelLoader(tmp_path, RUNTIMES).load(iris(iris_folder.as_posix()), on_health)  # type: ignore[arg-type]

    progress = [event for event in events if event["event"] == "model_progress"]
    assert {event["model"] for event in progress} == {"iris"}
    assert [(event["stage"], event["done"], event["total"]) for event in progress][-3:] == [
        ("load", 1, 1),
        ("warm", 0, 1),
        ("warm", 1, 1),
    ]
    await model.runtime.unload()


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        ({"model_format": "onyx"}, NotFound, "unknown model format 'onyx'; known are: .*llm, .*sklearn"),
        ({"storage_uri": "/no/such/folder"}, NotFound, "/no/such/folder"),
        ({"storage_uri": "gopher://x/y"}, MeshError, "unknown .*scheme 'gopher'"),
    ],
)
async def test_what_cannot_be_loaded_says_why(
    iris_folder: Path, tmp_path: Path, fields: dict[str, str], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        await ModelLoader(tmp_path, RUNTIMES).load(iris(iris_folder, **fields), on_health)


async def test_a_wrong_digest_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not the promised bytes")
    promised = hashlib.sha256(b"the promised bytes").hexdigest()
    spec = ModelSpec("m", "llm", str(file), sha256=promised)

    with pytest.raises(CorruptArtifact, match=promised):
        await ModelLoader(tmp_path, RUNTIMES).load(spec, on_health)


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64], ids=["empty", "cut", "lies"]
)
async def test_a_truncated_language_model_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)

    with pytest.raises(CorruptArtifact):
        await ModelLoader(tmp_path, RUNTIMES).load(ModelSpec("m", "llm", str(file)), on_health)


async def test_a_missing_package_is_named(iris_folder: Path, tmp_path: Path) -> None:
    loader = ModelLoader(tmp_path, {"sklearn": "no_such_package.runtime:Runtime"})

    with pytest.raises(Unavailable, match="needs the package 'no_such_package'"):
        await loader.load(iris(iris_folder), on_health)


async def test_a_missing_library_of_the_system_is_named(
    iris_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_openmp.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    loader = ModelLoader(tmp_path, {"sklearn": "needs_openmp:Runtime"})

    with pytest.raises(Unavailable, match="'sklearn' cannot be served on this machine: libgomp.so.1: cannot open"):
        await loader.load(iris(iris_folder), on_health)


async def test_a_runtime_that_fails_to_load_is_unloaded(iris_folder: Path, tmp_path: Path) -> None:
    loader = ModelLoader(tmp_path, {"sklearn": f"{__name__}:BrokenRuntime"})
    BrokenRuntime.made.clear()

    with pytest.raises(CorruptArtifact, match="iris is broken"):
        await loader.load(iris(iris_folder), on_health)

    assert [runtime.is_unloaded for runtime in BrokenRuntime.made] == [True]


def test_progress_is_logged_at_most_four_times_a_second_and_always_at_the_end() -> None:
    now = [0.0]
    log = ProgressLog("m", lambda: now[0])
    with capture_logs() as events:
        for done in range(101):
            now[0] += 0.01
            log("fetch", done, 100)
        log("load", 0, None)

    assert len(events) <= 7  # the start, four in the second, the end, and the next stage
    assert [event["done"] for event in events][-2:] == [100, 0]
    assert json.dumps(events)  # plain values only: the supervisor reads them from the log


class CuriousRuntime(IdentityRuntime):
    """Remembers whether it may run code."""

    may_run_code: ClassVar[list[bool]] = []

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        self.may_run_code.append(artifact.may_run_code)


async def test_a_model_may_run_code_only_when_the_operator_says_so(iris_folder: Path, tmp_path: Path) -> None:
    formats = {"sklearn": f"{__name__}:CuriousRuntime"}

    for trust in ({}, {"may_run_code": True}):
        await ModelLoader(tmp_path, formats, **trust).load(iris(iris_folder), on_health)

    assert CuriousRuntime.may_run_code[-2:] == [False, True]

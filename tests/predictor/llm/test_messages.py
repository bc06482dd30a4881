"""Every message survives the way through the pipe."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mesh.errors import CorruptArtifact
from predictor.llm.factory import ModelFacts
from predictor.llm.limits import EngineLimits
from predictor.llm.messages import (
    Abort,
    Add,
    Command,
    EngineInfo,
    EngineSpec,
    Inspect,
    LoadFailed,
    Loading,
    Message,
    Ping,
    Ready,
    Report,
    Stop,
)
from predictor.llm.outputs import EngineStats
from tests.predictor.llm.engines import SmallEngine, generation

INFO = EngineInfo(ModelFacts("hash", 1, 300, 64, "int64"), EngineLimits(300, 64), 4, 16, 4096, True)


@pytest.mark.parametrize(
    "message",
    [
        EngineSpec(Path("model.gguf")),
        Add(generation(), 1.0),
        Abort("r"),
        Ping(),
        Inspect(),
        Stop(),
        Loading("weights", 0.5),
        Ready(INFO),
        Report((), EngineStats(num_steps=3)),
        SmallEngine().engine.inspect(),
    ],
)
def test_a_message_arrives_as_it_was_sent(message: EngineSpec | Command | Message) -> None:
    assert pickle.loads(pickle.dumps(message)) == message  # noqa: S301  our own bytes


def test_the_reason_of_a_failed_load_arrives() -> None:
    arrived = pickle.loads(pickle.dumps(LoadFailed(CorruptArtifact("bad magic"))))  # noqa: S301  our own bytes

    assert isinstance(arrived.error, CorruptArtifact)
    assert arrived.error.message == "bad magic"

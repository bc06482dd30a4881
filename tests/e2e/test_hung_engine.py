"""An engine that hangs or dies, as the gateway's callers see it: a stream that pauses, 503, and ready again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from examples.train_iris import train
from tests.e2e.running import Mesh, eventually, start, stop
from tests.e2e.test_survival import chat, predict

# Long enough for a busy machine, and short enough to wait for. The pause makes sure that the time without an engine is
# seen.
OPTIONS = {"heartbeat_interval_s": "0.5", "heartbeat_timeout_s": "10", "restart_delay_s": "5"}
RECOVER_S = 90.0
LONG_CHAT = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "max_tokens": 400,
    "temperature": 0,
    "stream": True,
}


@pytest.fixture
def watchful_mesh(smollm2_gguf: Path, tmp_path: Path) -> Iterator[Mesh]:
    """Both models of the default mesh, with an engine that is missed after ten seconds."""
    train(tmp_path / "iris")
    language = {"model_format": "llm", "storage_uri": smollm2_gguf.as_uri(), "options": OPTIONS}
    iris = {"model_format": "sklearn", "storage_uri": (tmp_path / "iris").as_uri()}
    deployments = [
        {"name": "smollm2", "predictor": language, "transformer": {"steps": ["chat_template"]}},
        {"name": "iris", "predictor": iris, "transformer": {}},
    ]
    file = tmp_path / "mesh.yaml"
    file.write_text(json.dumps({"deployments": deployments}))
    # Nothing is held: what a caller is told at once is what this is about.
    running = start(tmp_path, "--deployments", str(file), MESHSERVE_HOLD_S="0")
    yield running
    stop(running)


def engine(mesh: Mesh) -> psutil.Process:
    [process] = psutil.Process(mesh.service("predictor")["pid"]).children()
    return process


def is_ready(mesh: Mesh) -> bool:
    return bool(httpx.get(f"{mesh.url}/v2/models/smollm2/ready").json()["ready"])


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_callers_are_told_of_a_hung_and_of_a_killed_engine(watchful_mesh: Mesh) -> None:
    mesh = watchful_mesh
    assert is_ready(mesh)
    texts = []
    for how in (signal.SIGSTOP, signal.SIGKILL):
        victim = engine(mesh)
        with httpx.stream("POST", f"{mesh.url}/v1/chat/completions", json=LONG_CHAT, timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: {")

            os.kill(victim.pid, how)

            eventually(lambda: not is_ready(mesh), 40, f"the model is not ready after {how.name}")
            refused = httpx.post(f"{mesh.url}/v1/chat/completions", json={**LONG_CHAT, "stream": False}, timeout=30)
            events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]

        assert refused.status_code == 503
        assert refused.json()["error"]["type"] == "service_unavailable_error"
        # The stream was on its way: it waits for the engine's next process, and goes on after its last token.
        assert events.pop() == "[DONE]"
        texts.append("".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events))
        assert predict(mesh.url), "the other model is served meanwhile"
        eventually(lambda: is_ready(mesh) and chat(mesh.url), RECOVER_S, f"answers come again after {how.name}")
        assert not victim.is_running()
    assert len(texts[0]) > 200
    assert texts[0] == texts[1]

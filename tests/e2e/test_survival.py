"""`kill -9` of any one service while requests run: the others stay up, it comes back, requests succeed again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest

from tests.e2e.running import SERVICES, Mesh, eventually

IRIS = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "Count to ten."}], "max_tokens": 12}
RECOVER_S = 60.0


def predict(url: str) -> bool:
    try:
        return httpx.post(f"{url}/v1/models/iris:predict", json=IRIS, timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def chat(url: str) -> bool:
    try:
        return httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def load(url: str) -> Iterator[list[bool]]:
    """Requests of both kinds, one after the other in a thread each; gives their outcomes as they come."""
    outcomes: list[bool] = []
    ended = threading.Event()

    def send() -> None:
        while not ended.is_set():
            outcomes.append(predict(url))
            outcomes.append(chat(url))

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        ended.set()
        for thread in threads:
            thread.join(60)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_service_comes_back_and_the_others_stay(own_mesh: Mesh) -> None:
    url = own_mesh.url
    for victim in SERVICES:
        before = {service["name"]: service["pid"] for service in own_mesh.info()["services"]}
        with load(url) as outcomes:
            eventually(lambda outcomes=outcomes: len(outcomes) > 4, 60, "requests run")
            os.kill(before[victim], signal.SIGKILL)
            eventually(
                lambda victim=victim, before=before: own_mesh.service(victim)["pid"] not in (None, before[victim]),
                RECOVER_S, f"{victim} is started again",
            )  # fmt: skip
            eventually(lambda: predict(url) and chat(url), RECOVER_S, f"requests succeed after {victim} died")
            sent = len(outcomes)
            eventually(
                lambda outcomes=outcomes, sent=sent: len(outcomes) > sent + 8 and all(outcomes[-6:]),
                RECOVER_S, f"all requests succeed again after {victim} died",
            )  # fmt: skip
            failures = outcomes.count(False)

        after = {service["name"]: service["pid"] for service in own_mesh.info()["services"]}
        assert {name: after[name] for name in SERVICES if name != victim} == {
            name: before[name] for name in SERVICES if name != victim
        }
        if victim in ("registry", "explainer"):
            assert failures == 0, f"nothing that runs needs the {victim}"


def family(mesh: Mesh) -> list[psutil.Process]:
    supervisor = psutil.Process(mesh.process.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.slow
def test_end_leaves_no_orphan(own_mesh: Mesh, how: signal.Signals) -> None:
    processes = family(own_mesh)
    assert len(processes) >= 7, "supervisor, five services, the engine"

    own_mesh.process.send_signal(how)
    status = own_mesh.process.wait(40)

    eventually(lambda: not alive(processes), 15, f"no process is left after {how.name}")
    assert status == (-9 if how is signal.SIGKILL else 0)

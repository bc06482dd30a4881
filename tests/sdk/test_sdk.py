"""Stock SDKs against the gateway, before the real SmolLM2; what fails on purpose, before a fake language model.

Each SDK runs the scenarios in a process and an environment of its own (that of tests/interop/environments.py); what it
gave is held against what plain HTTP gives for the same body.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.conftest import open_door
from tests.interop import environments
from tests.interop.conftest import deployment
from tests.interop.served import served
from tests.sdk.scenarios import Json, Scenario, all_scenarios, seen_of

DRIVERS = Path(__file__).with_name("drivers")
DRIVE_S = 400.0
SCENARIOS = all_scenarios()
# What both deployments are called.
MODEL = "chat"
# Each script and the ways of asking that it drives; how many scenarios a way must be able to run.
LEAST = {
    "openai_sdk.py": {"openai chat": 25, "openai responses": 24},
    "anthropic_sdk.py": {"anthropic": 20},
    "langchain_sdk.py": {"langchain chat": 24, "langchain responses": 20},
    "litellm_sdk.py": {"litellm openai": 25, "litellm anthropic": 20},
}
# A text of so many tokens must come in more than one piece.
MANY_TOKENS = 4


@pytest.fixture(scope="module")
def sdk_python() -> Path:
    """The interpreter that has the SDKs."""
    try:
        return environments.python_of(environments.ready("sdk"))
    except environments.CannotInstall as error:
        pytest.skip(str(error))


@pytest.fixture
async def fake_url(tmp_path: Path) -> AsyncIterator[str]:
    """A gateway before the fake language model."""
    async with open_door(tmp_path) as door:
        yield door.url


@pytest.fixture(scope="module")
def real_url(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway before SmolLM2, each service a process."""
    folder = tmp_path_factory.mktemp("sdk")
    with served(folder, [deployment(MODEL, "llm", smollm2_gguf.as_uri(), steps=["chat_template"])]) as mesh:
        yield mesh.url


@pytest.fixture(scope="module")
def expected(real_url: str) -> dict[str, Json]:
    """What plain HTTP sees, by scenario; nothing of one that is an error."""
    return {scenario.name: _seen_by_http(real_url, scenario) for scenario in SCENARIOS if scenario.error is None}


@pytest.mark.slow
@pytest.mark.timeout(DRIVE_S + 100)
@pytest.mark.parametrize("script", LEAST)
async def test_sdk_sees_what_plain_http_sees(
    script: str, sdk_python: Path, fake_url: str, real_url: str, expected: dict[str, Json]
) -> None:
    urls = {scenario.name: fake_url if scenario.only_fake else real_url for scenario in SCENARIOS}

    seen = await asyncio.to_thread(_driven, script, sdk_python, urls)

    assert list(seen) == list(LEAST[script])
    wrong = []
    for way, found in seen.items():
        could = [scenario for scenario in SCENARIOS if "cannot" not in found[scenario.name]]
        assert len(could) >= LEAST[script][way], way
        for scenario in could:
            if words := _wrong(scenario, found[scenario.name], expected.get(scenario.name)):
                wrong.append(f"{way}, {scenario.name}: {words}")
    assert not wrong, "\n".join(wrong)


def _driven(script: str, python: Path, urls: dict[str, str]) -> dict[str, dict[str, Json]]:
    """What the SDK saw, by way of asking and scenario."""
    plan = [scenario.to_json(MODEL, urls[scenario.name]) for scenario in SCENARIOS]
    # Without the paths of this project, whose packages have names that an SDK's may have, too.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), str(DRIVERS / script)],
        input=json.dumps(plan), capture_output=True, text=True, timeout=DRIVE_S, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    seen: dict[str, dict[str, Json]] = json.loads(done.stdout.splitlines()[-1])
    return seen


def _seen_by_http(url: str, scenario: Scenario) -> Json:
    answer = httpx.post(
        f"{url}/v1/chat/completions", json=scenario.to_json(MODEL, url)["body"], timeout=60, trust_env=False
    )
    assert answer.status_code == 200, f"{scenario.name}: {answer.text}"
    return seen_of(answer.json())


def _wrong(scenario: Scenario, found: Json, expected: Json | None) -> str | None:
    """What is not as it must be; None when all is."""
    if expected is None:
        return _wrong_error(scenario, found)
    if "error" in found:
        return f"{found['error']}: {found['message'][:500]}\n{found['traceback']}"
    for name in ("outputs", "usage"):
        if found[name] != expected[name]:
            return f"{name} are {found[name]}, and {expected[name]} by plain HTTP"
    if found.get("counted", expected["usage"]["input"]) != expected["usage"]["input"]:
        return f"{found['counted']} tokens were counted, and {expected['usage']['input']} used"
    if scenario.is_streamed and expected["usage"]["output"] >= MANY_TOKENS and found["num_pieces"] < 2:
        return "the stream came in one piece"
    return None


def _wrong_error(scenario: Scenario, found: Json) -> str | None:
    assert scenario.error is not None
    kind, status = scenario.error
    if kind not in found.get("ancestors", ()):
        return f"it must raise {kind}, and gave {str(found)[:1000]}"
    return None if status in (0, found["status"]) else f"its status is {found['status']} and not {status}"

"""docs/traffic.md: its commands run in order against a mesh, and what they are said to do is seen at the gateway."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.__main__ import main
from gateway.exchange import ARM_HEADER, SERVED_BY_HEADER
from gateway.settings import GatewaySettings
from gateway.traffic import Arm
from mesh.deployments import parse_deployments
from mesh.traffic_spec import TAG_HEADER
from mesh.v1.registry_pb2 import Deployment
from tests.gateway.test_dispatch import V2_INPUT
from tests.gateway.traffic_rig import TrafficMesh, VersionedPredictor, deployment, traffic_mesh

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "traffic.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```bash\nmeshserve (.*?)\n```", PAGE, re.DOTALL)

[CURL] = re.findall(r"```bash\n(curl .*?)\n```", PAGE, re.DOTALL)


def examples() -> list[Deployment]:
    found = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    return [one for text in found for one in parse_deployments(yaml.safe_load(text), "docs/traffic.md")]


async def meshserve(mesh: TrafficMesh, command: str) -> Deployment:
    """Run one of the page's commands; gives the deployment of the gateway's view after it."""

    def run() -> None:
        with pytest.raises(SystemExit) as ended:
            main([*shlex.split(command), "--registry", mesh.registry_address])
        assert not ended.value.code, command

    await asyncio.to_thread(run)
    applied = mesh.control.view.deployments["iris"]
    await mesh.seen(applied)
    return applied


async def ask(mesh: TrafficMesh, headers: dict[str, str] | None = None) -> tuple[str, str]:
    answer = await mesh.http.post("/v2/models/iris/infer", json=V2_INPUT, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers[SERVED_BY_HEADER], answer.headers[ARM_HEADER]


async def test_the_commands_do_what_the_page_says(tmp_path: Path, capsys: Any) -> None:
    show, mirror, canary, rules, promote, rollback, fallback = COMMANDS
    beside, written = examples()
    async with traffic_mesh(tmp_path) as mesh:
        predictor = VersionedPredictor(("1", "2"))
        address = await mesh.serve(predictor, "iris")
        await mesh.apply(beside, deployment("iris-small", "7"))

        capsys.readouterr()
        await meshserve(mesh, show)
        [table] = re.findall(r"```\n(version  .*?)```", PAGE, re.DOTALL)
        shown = capsys.readouterr().out
        assert [line.split() for line in table.splitlines()] == [line.split() for line in shown.splitlines()[-3:]]

        await meshserve(mesh, mirror)
        assert await ask(mesh) == ("iris/1", "stable")
        [line] = await mesh.lines("mirrors.jsonl", 1)
        assert {"outcome", "error", "outputs"} <= set(line)
        assert {"share_equal", "max_abs_difference"} <= set(line["outputs"][0])

        await meshserve(mesh, canary)
        arms = {(await ask(mesh, {"x-session": str(number)}))[1] for number in range(100)}
        assert arms == {"stable", "canary"}

        with_rules = await meshserve(mesh, rules)
        assert await ask(mesh, {"x-group": "beta"}) == ("iris/2", "rule")
        assert await ask(mesh, {TAG_HEADER: "next"}) == ("iris/2", "rule")

        curl = CURL.replace("http://127.0.0.1:8080", str(mesh.http.base_url).rstrip("/"))
        asked = await asyncio.to_thread(subprocess.run, ["bash", "-ec", curl], capture_output=True, timeout=30)
        assert json.loads(asked.stdout)["model_version"] == "2"

        promoted = await meshserve(mesh, promote)
        assert promoted.predictor.model_version == "2"
        assert await ask(mesh) == ("iris/2", "stable")
        rolled_back = await meshserve(mesh, rollback)
        assert await ask(mesh) == ("iris/1", "stable")

        with_fallback = await meshserve(mesh, fallback)
        mesh.control.withdraw(address)
        await mesh.serve(VersionedPredictor(("7",)), "iris-small")
        assert await ask(mesh) == ("iris-small", "fallback")

    assert rolled_back.traffic.rules == with_rules.traffic.rules == written.traffic.rules
    assert with_rules.traffic.canary == written.traffic.canary
    assert with_rules.traffic.mirror == written.traffic.mirror
    assert with_rules.traffic.sticky_header == written.traffic.sticky_header
    assert with_fallback.traffic.fallback == written.traffic.fallback


def test_the_settings_metrics_and_words_of_the_page_exist() -> None:
    metrics = set(re.findall(r"`(meshserve_\w+)`", PAGE))
    settings = set(re.findall(r"`(mirror_\w+)`", PAGE))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gateway").glob("*.py"))

    assert settings == {name for name in GatewaySettings.model_fields if name.startswith("mirror_")}
    assert len(metrics) == 2
    assert {name for name in metrics if f'"{name.removesuffix("_total")}"' not in sources} == set()
    assert {str(arm) for arm in Arm} <= set(re.findall(r"`(\w+)`", PAGE))
    assert {SERVED_BY_HEADER, ARM_HEADER} <= set(re.findall(r"`(x-[\w-]+)`", PAGE))

"""Contenders, ours and the peers, installed or not: their names, what they are worth, their command lines."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bench.llm import meshserve
from bench.llm.__main__ import chosen
from bench.llm.contender import Contender
from bench.llm.targets import RIVALS
from bench.llm.workloads import WORKLOADS
from bench.peers import llama_cpp, openvino, vllm

MODEL = Path("/models/model.gguf")
PEERS = [*llama_cpp.contenders(MODEL), *openvino.contenders(), *vllm.contenders()]
EVERYBODY = [*meshserve.contenders(), *PEERS]


def test_names_are_unique_and_every_rival_of_a_target_is_one_of_them() -> None:
    names = [each.name for each in EVERYBODY]

    assert len(set(names)) == len(names)
    assert {name for rival in RIVALS.values() for name in rival} <= set(names)


def test_only_the_mesh_is_ours_and_only_scales_per_token_lose_quality() -> None:
    assert [each.name for each in EVERYBODY if each.is_ours] == [
        meshserve.GATEWAY,
        meshserve.WITHOUT_DRAFTS,
        meshserve.PREDICTOR,
    ]
    assert [each.name for each in EVERYBODY if each.is_lower_quality] == ["vLLM w8a8"]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
async def test_a_peer_listens_where_its_client_asks(peer: Contender, tmp_path: Path) -> None:
    argv = peer.command(4711, tmp_path).argv

    client = peer.client(4711, tmp_path)

    assert argv[argv.index("--port") + 1] == "4711"
    assert client is not None
    await client.close()


def test_our_commands_name_the_one_deployment_and_keep_everything_in_their_folder(tmp_path: Path) -> None:
    for ours in meshserve.contenders():
        argv = ours.command(4711, tmp_path).argv

        deployments = yaml.safe_load(Path(argv[argv.index("--deployments") + 1]).read_text())["deployments"]
        options = {"speculation": "off"} if ours.name == meshserve.WITHOUT_DRAFTS else None
        assert [each["predictor"].get("options") for each in deployments] == [options]
        assert Path(argv[argv.index("--state-dir") + 1]).is_relative_to(tmp_path)


def test_a_mesh_that_has_not_started_has_no_client_yet(tmp_path: Path) -> None:
    assert [ours.client(4711, tmp_path) for ours in meshserve.contenders()] == [None, None, None]


def test_names_are_chosen_by_their_beginning_in_their_own_order() -> None:
    assert [each.name for each in chosen(EVERYBODY, ["vLLM", "Mesh"])] == [
        *("MeshServe", "MeshServe, no drafts", "MeshServe, predictor alone"),
        *("vLLM", "vLLM w8a8"),
    ]
    assert [each.name for each in chosen(WORKLOADS, ["long"])] == ["long c=1", "long c=8"]
    assert chosen(EVERYBODY, None) == EVERYBODY

"""`meshserve engine` against a real predictor: a busy engine, one that hangs, and what is no predictor at all."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.local.run_info import RunInfo, ServiceInfo, write_run_info
from deploy.local.state_dir import StateDir
from mesh.testing import serve_on_free_port
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from tests.predictor.hash_predictor import running_hash_predictor
from tests.predictor.running import RunningPredictor, eventually

ROOT = Path(__file__).parents[2]


async def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "engine", *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
    )


@asynccontextmanager
async def busy_predictor(folder: Path) -> AsyncIterator[tuple[RunningPredictor, str]]:
    """Two callers who ask again and again: one output runs, and the other waits for it."""
    async with running_hash_predictor(folder, kv_cache_bytes=4 * 2**20, max_num_seqs=1) as predictor:
        async with predictor.channel() as channel:
            sampling = lm.SamplingParameters(temperature=0, max_tokens=4000, ignore_eos=True)
            request = lm.GenerateRequest(model_name="hash", text="secret words", sampling=sampling)

            async def ask_for_ever() -> None:
                while True:
                    async for _ in LanguageModelStub(channel).Generate(request):
                        pass

            callers = [asyncio.create_task(ask_for_ever()) for _ in range(2)]
            yield predictor, predictor.addresses["grpc_address"]
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)


async def test_a_busy_engine_is_shown_to_people_and_to_programs(tmp_path: Path) -> None:
    async with busy_predictor(tmp_path) as (_, address):
        seen: dict[str, Any] = {}

        async def one_runs_and_one_waits() -> bool:
            described = await cli("hash", "--address", address, "--json")
            assert described.returncode == 0, described.stderr
            seen.update(json.loads(described.stdout))
            return len(seen["running"]) == len(seen["waiting"]) == 1

        await eventually(one_runs_and_one_waits, 60, "one runs and one waits")
        table = await cli("hash", "--address", address)

    assert (seen["model_name"], seen["state"], seen["num_waiting"]) == ("hash", "ready", 1)
    (running,) = seen["running"]
    assert running["num_prompt_tokens"] == len("secret words")
    assert running["num_output_tokens"] > 0
    assert len(running["block_table"]) == seen["block_pool"]["num_held"]
    assert isinstance(running["sequence_id"], int)
    assert seen["last_step"]["chunks"][0]["sampled"] is True
    assert table.returncode == 0, table.stderr
    assert table.stdout.startswith(f"hash, version 1: ready, process {seen['pid']}\n")
    assert "running  " in table.stdout
    assert "room for 4096 tokens" in table.stdout
    assert "secret" not in table.stdout + json.dumps(seen)


async def test_it_finds_the_predictor_of_the_mesh_that_runs_here(tmp_path: Path) -> None:
    async with running_hash_predictor(tmp_path, kv_cache_bytes=2**20) as predictor:
        state = StateDir(tmp_path / "mesh")
        address = predictor.addresses["grpc_address"]
        service = ServiceInfo("predictor", "serving", 1, 1.0, 0, address, "127.0.0.1:1", None, "x.log")
        with state.locked():
            write_run_info(state.run_file, RunInfo(1, 1.0, "http://127.0.0.1:1", (service,), ()))

            found = await cli("hash", "--state-dir", str(tmp_path / "mesh"))

    assert found.returncode == 0, found.stderr
    assert "0 running, 0 waiting" in found.stdout


async def test_an_engine_that_hangs_is_a_sentence_in_time(tmp_path: Path) -> None:
    async with running_hash_predictor(tmp_path, kv_cache_bytes=2**20) as predictor:
        address = predictor.addresses["grpc_address"]
        pid = json.loads((await cli("hash", "--address", address, "--json")).stdout)["pid"]
        os.kill(pid, signal.SIGSTOP)

        failed = await cli("hash", "--address", address, "--timeout", "0.5")

    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith(f"meshserve: the engine (process {pid}) has not answered for ")


async def test_a_model_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    async with running_hash_predictor(tmp_path, kv_cache_bytes=2**20) as predictor:
        failed = await cli("other", "--address", predictor.addresses["grpc_address"])

    assert failed.returncode == 1
    assert failed.stderr == "meshserve: model 'other' is not deployed; deployed: hash\n"


async def test_what_is_no_predictor_is_a_sentence() -> None:
    async with serve_on_free_port() as address:
        failed = await cli("hash", "--address", address)

    assert failed.stderr == f"meshserve: what answers at {address} is no predictor; name one with --address\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--address", "127.0.0.1:1"), "no predictor answers at 127.0.0.1:1 (gRPC); look at `meshserve status`"),
        (("--address", "here"), "--address 'here' is no address; write it like 127.0.0.1:8092"),
        (("--address", "here:99999"), "--address 'here:99999' is no address; write it like 127.0.0.1:8092"),
    ],
)
def test_a_wrong_address_is_a_sentence(run_cli: Any, arguments: tuple[str, ...], sentence: str) -> None:
    result = run_cli("engine", "hash", *arguments)

    assert (result.status, result.out, result.err) == (1, "", f"meshserve: {sentence}\n")


def test_no_mesh_is_a_sentence(run_cli: Any, tmp_path: Path) -> None:
    result = run_cli("engine", "hash", "--state-dir", str(tmp_path))

    assert result.status == 1
    assert result.err == (
        "meshserve: no mesh runs here; start one with `meshserve up`, or name a predictor with --address\n"
    )

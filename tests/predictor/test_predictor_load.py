"""What a real predictor says of its load in mid-stream, and that the way to it notices when it freezes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import grpc
import grpc.aio

from mesh.load_report import LoadReport
from mesh.multiplex.channel import open_multiplexed
from mesh.testing import eventually
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from tests.predictor.hash_predictor import running_hash_predictor

PROMPT_TOKENS = 40
MAX_TOKENS = 1000


class Stream:
    """Reads one generation to its end. is_running: it has given something."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.is_running = False
        self.task = asyncio.create_task(self._read(channel))

    async def _read(self, channel: grpc.aio.Channel) -> int:
        sampling = lm.SamplingParameters(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True)
        token_ids = lm.TokenIds(ids=range(1, PROMPT_TOKENS + 1))
        request = lm.GenerateRequest(model_name="hash", token_ids=token_ids, sampling=sampling)
        count = 0
        async for response in LanguageModelStub(channel).Generate(request, timeout=60):
            self.is_running = True
            count += len(response.token_ids)
        return count


async def test_load_is_told_in_mid_stream_and_a_freeze_is_noticed(tmp_path: Path) -> None:
    engine = {"kv_cache_bytes": 4 * 2**20, "max_num_seqs": 2, "max_num_batched_tokens": 64}
    async with running_hash_predictor(tmp_path, **engine) as predictor:
        async with open_multiplexed(predictor.addresses["grpc_address"], liveness_timeout_s=1.5) as channel:
            reports: list[LoadReport] = []
            channel.peer.on_load = reports.append
            streams = [Stream(channel) for _ in range(5)]

            await eventually(lambda: any(report.queued == 3 for report in reports), 20)

            report = next(report for report in reports if report.queued == 3)
            assert report.running == 2
            assert report.queued_tokens == 3 * PROMPT_TOKENS
            assert 0 < report.kv_usage <= 1
            assert report.work == 5 * (1 + PROMPT_TOKENS + MAX_TOKENS)

            predictor.process.send_signal(signal.SIGSTOP)
            ends = await asyncio.gather(*(stream.task for stream in streams), return_exceptions=True)
            predictor.process.send_signal(signal.SIGCONT)

            assert all(
                isinstance(end, grpc.aio.AioRpcError) and end.code() is grpc.StatusCode.UNAVAILABLE for end in ends
            )
            assert await Stream(channel).task == MAX_TOKENS
            async with asyncio.timeout(20):
                while (reports[-1].queued, reports[-1].kv_usage) != (0, 0.0):  # reports come with answers only
                    await LanguageModelStub(channel).Tokenize(
                        lm.TokenizeRequest(model_name="hash", text="a"), timeout=20
                    )

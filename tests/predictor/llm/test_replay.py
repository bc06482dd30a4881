"""Recorded steps give the same results again, on the hash model, and a difference is found where it is."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import InvalidInput
from predictor.llm.factory import EngineModel
from predictor.llm.guide import GuideKind, GuideSpec
from predictor.llm.messages import EngineSpec
from predictor.llm.replay import replay
from predictor.llm.settings import EngineSettings
from predictor.llm.step import SamplingParams
from predictor.llm.trace import trace
from tests.predictor.llm.engines import generation
from tests.predictor.llm.hash_model import load


def hash_model() -> EngineModel:
    return load(Path("hash"), EngineSettings(), lambda stage, share: None)


def recorded(seed: int = 1) -> list[str]:
    """A crowded run of all kinds of requests, as lines."""
    rng = random.Random(seed)
    requests = [
        generation(
            str(index),
            tuple(rng.randrange(256) for _ in range(rng.randrange(1, 12))),
            rng.randrange(1, 12),
            sampling=SamplingParams(seed=index, num_logprobs=index % 3 - 1, presence_penalty=index % 2),
            ignore_eos=False,
            min_tokens=index % 2,
            n=1 + index % 3,
            num_prompt_logprobs=index % 2 - 1,
            guide=GuideSpec(GuideKind.REGEX, "7 20") if index % 4 == 0 else None,
        )
        for index in range(12)
    ]
    settings = EngineSettings(kv_cache_bytes=12 * 4096, block_size=4, max_num_seqs=4, max_num_batched_tokens=8)
    recording, out = io.StringIO(), io.StringIO()
    trace(hash_model(), EngineSpec(Path("hash"), settings), requests, out, recording)
    assert "pushed back" in out.getvalue()
    return recording.getvalue().splitlines(keepends=True)


def replayed(lines: list[str]) -> tuple[bool, str]:
    out = io.StringIO()
    return replay(hash_model(), io.StringIO("".join(lines)), out), out.getvalue()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_step_is_the_same_again(seed: int) -> None:
    lines = recorded(seed)

    is_same, text = replayed(lines)

    assert is_same
    assert text.count("same\n") == len(lines)  # each step, and the last line
    assert text.splitlines()[-1] == f"{len(lines) - 1} steps, all the same"


def test_a_difference_is_named_with_both_values() -> None:
    lines = recorded()
    number, record = next(
        (n, r) for n, r in enumerate(map(json.loads, lines)) if n > 5 and r["results"][-1].get("token_ids")
    )
    (was,) = record["results"][-1]["token_ids"]
    record["results"][-1]["token_ids"] = [(was + 1) % 256]
    lines[number] = json.dumps(record) + "\n"

    is_same, text = replayed(lines)

    assert not is_same
    sequence_id = record["chunks"][-1]["sequence_id"]
    assert f"step {record['step_id']}: " in text
    assert f"  #{sequence_id} token_ids: ({was},), recorded ({(was + 1) % 256},)\n" in text
    assert text.splitlines()[-1] == (
        f"1 of {len(lines) - 1} steps are different; the first is step {record['step_id']}"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architecture": "llama"}, "a model whose architecture is llama; this one's is hash"),
        ({"vocab_size": 301}, "a model whose vocab_size is 301; this one's is 300"),
        ({"num_blocks": 2**31 - 1}, "the recording's 2147483647 blocks of 4 tokens take 8796093018112 bytes"),
        ({"num_blocks": 1}, "line 2: "),
    ],
)
def test_what_does_not_fit_this_model_is_refused(change: dict[str, Any], sentence: str) -> None:
    lines = recorded()
    lines[0] = json.dumps({**json.loads(lines[0]), **change}) + "\n"

    with pytest.raises(InvalidInput) as refusal:
        replayed(lines)

    assert sentence in refusal.value.message


def test_a_context_that_the_model_cannot_have_is_refused() -> None:
    head = json.loads(recorded()[0])
    num_tokens = 4100
    step = {
        "step_id": 0,
        "chunks": [
            {
                "sequence_id": 0,
                "token_ids": [1] * num_tokens,
                "start_position": 0,
                "block_table": list(range(num_tokens // 4)),
            }
        ],
        "results": [{"sequence_id": 0}],
    }

    with pytest.raises(InvalidInput, match="has a context of 4100 tokens; the model takes 4096"):
        replayed([json.dumps({**head, "num_blocks": 2000}) + "\n", json.dumps(step)])

"""A trace shows each step as it was planned and what came of it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from predictor.llm.messages import EngineSpec
from predictor.llm.settings import EngineSettings
from predictor.llm.trace import describe_blocks, main, trace
from tests.predictor.llm.engines import GREEDY, generation
from tests.predictor.llm.hash_model import continuation, load


def test_every_step_and_every_end_is_written() -> None:
    settings = EngineSettings(kv_cache_bytes=2**16, block_size=4, max_num_seqs=2, max_num_batched_tokens=8)
    out = io.StringIO()
    model = load(Path("hash"), settings, lambda stage, share: None)
    first, second = continuation((1, 2), 2, GREEDY)

    trace(model, EngineSpec(Path("hash"), settings), [generation("0", (1, 2), 2), generation("1", (9,) * 9, 1)], out)

    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    text = bytes([first, second]).decode(errors="replace")
    assert lines[:4] == [
        "16 blocks of 4 tokens",
        "step 0: 8 tokens",
        f"  #0   positions 0..1        blocks 0  ->  {first} {bytes([first]).decode(errors='replace')!r}",
        "  #1   positions 0..5        blocks 1-2",
    ]
    assert lines[5] == "step 1: 4 tokens"
    assert any(
        line.startswith("  #0 ends (length): 2 prompt tokens, 0 of them cached, 2 output tokens") for line in lines
    )
    assert f"  {text!r}" in lines
    assert lines[-1].endswith("0 running, 0 waiting, 16 blocks free")


@pytest.mark.parametrize(("block_table", "text"), [((0,), "0"), ((0, 1, 2), "0-2"), ((5, 3, 4, 9), "5 3-4 9")])
def test_runs_of_blocks_are_joined(block_table: tuple[int, ...], text: str) -> None:
    assert describe_blocks(block_table) == text


def test_a_missing_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\n")

    assert main(["--model", str(tmp_path / "none.gguf"), str(prompts)]) == 1

    assert capsys.readouterr().err == "model file 'none.gguf' does not exist\n"

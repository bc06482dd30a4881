"""A trace shows each step as it was planned and what came of it; a recording of it can be run again."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from predictor.llm.factory import EngineModel
from predictor.llm.guide import GuideKind, GuideSpec
from predictor.llm.messages import EngineSpec
from predictor.llm.sequence import GenerationRequest
from predictor.llm.settings import EngineSettings
from predictor.llm.trace import main, trace
from tests.predictor.llm.engines import GREEDY, generation
from tests.predictor.llm.hash_model import continuation, load
from tests.predictor.llm.model_folders import write_folder

HEADER_LINES = 1


def settings(num_blocks: int, max_num_seqs: int = 4, max_num_batched_tokens: int = 8) -> EngineSettings:
    return EngineSettings(
        kv_cache_bytes=num_blocks * 4 * 1024,
        block_size=4,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
    )


def hash_model() -> EngineModel:
    return load(Path("hash"), EngineSettings(), lambda stage, share: None)


def traced(requests: Sequence[GenerationRequest], how: EngineSettings, recording: io.StringIO | None = None) -> str:
    out = io.StringIO()
    trace(hash_model(), EngineSpec(Path("hash"), how), requests, out, recording)
    return out.getvalue()


def shown(token_id: int) -> str:
    return f"->  {token_id} {bytes([token_id]).decode(errors='replace')!r}"


def rows(text: str, name: str) -> list[str]:
    """What is said of one output, step by step, with single spaces."""
    return [" ".join(line.split()) for line in text.splitlines() if line.startswith(f"  {name} ")]


def test_every_step_and_every_end_is_written() -> None:
    text = traced([generation("0", (65, 66), 2), generation("1", (67,) * 9, 1)], settings(16, 2))

    lines = [line.rstrip() for line in text.splitlines()]
    first, second = continuation((65, 66), 2, GREEDY)
    assert lines[:3] == [
        "16 blocks of 4 tokens; a step computes at most 8 tokens of 2 outputs",
        "#0: 2 tokens  'AB'",
        "#1: 9 tokens  'CCCCCCCCC'",
    ]
    assert lines[3].startswith("step 0: 8 tokens, ")
    assert lines[4:7] == [
        f"  #0  prefill 0..1       blocks 0    {shown(first)}",
        "  #1  prefill 0..5 of 9  blocks 1-2",
        "  pool ████············  4 held, 0 cached, 12 blank; 2 running, 0 waiting",
    ]
    assert lines[8].startswith(f"  #0  decode  2     blocks 0    {shown(second)}")
    assert any(
        line.startswith("  #0 ends (length): 2 prompt tokens, 0 of them cached, 2 output tokens, first")
        for line in lines
    )
    assert f"    {bytes([first, second]).decode(errors='replace')!r}" in lines


def test_outputs_of_one_request_have_names_and_share_blocks() -> None:
    text = traced([generation("0", tuple(range(65, 74)), 2, n=2)], settings(16, max_num_batched_tokens=16))

    assert "#0: 9 tokens, 2 outputs" in text
    assert rows(text, "#0.0")[0].startswith("#0.0 prefill 0..8 blocks [0-1] 2 ->")
    assert rows(text, "#0.1")[0].startswith("#0.1 prefill 8..8 blocks [0-1] 3 8 from the cache ->")


def test_an_output_that_is_pushed_back_says_what_it_loses_and_what_it_finds_again() -> None:
    requests = [generation("0", (65,) * 6, 20, priority=1), generation("1", (66,) * 6, 20)]

    lines = rows(traced(requests, settings(7, 2, 16)), "#1")

    pushed_back = next(index for index, line in enumerate(lines) if "pushed back" in line)
    assert lines[pushed_back].startswith("#1 is pushed back: it gives up 3 blocks and keeps its 13 tokens")
    assert lines[pushed_back + 1].startswith("#1 prefill ")
    assert " again ->" in lines[pushed_back + 1]
    assert "pushed back 1 time," in lines[-1]


def test_guides_bans_penalties_and_scores_are_told() -> None:
    guided = generation("0", (65,), 2, guide=GuideSpec(GuideKind.REGEX, "64 2"))
    banned = generation("1", (65,), 2, ignore_eos=False, min_tokens=2)
    penalized = generation("2", (65,), 2, sampling=replace(GREEDY, presence_penalty=1.0))
    scored = generation("3", (65, 66, 67), 1, num_prompt_logprobs=0)

    text = traced([guided, banned, penalized, scored], settings(16))

    assert rows(text, "#0")[0].endswith("(of 4 that the guide allows)")
    assert rows(text, "#1")[0].endswith("(1 banned)")
    assert rows(text, "#2")[1].endswith("(penalties over 1 token)")
    assert " 2 tokens of the prompt scored ->" in rows(text, "#3")[0]


def test_a_request_that_fails_is_told() -> None:
    failing = generation("0", (65,), 5, guide=GuideSpec(GuideKind.REGEX, "64 5 2"))

    assert "  #0 fails: the guide gives up\n" in traced([failing], settings(16))


def test_a_missing_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\n")

    assert main(["--model", str(tmp_path / "none.gguf"), str(prompts)]) == 1

    assert capsys.readouterr().err == "model file 'none.gguf' does not exist\n"


def test_neither_prompts_nor_recording_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "none.gguf"]) == 1

    assert capsys.readouterr().err == "name a file with prompts, or a recording with --replay\n"


def test_a_folder_is_traced_recorded_and_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line from end to end, on small random weights, with preemptions."""
    # As many tokens as the tokenizer knows: random weights would say the others too.
    size = {"vocab_size": 376}
    model, steps = write_folder(tmp_path / "model", changes=size), tmp_path / "steps.jsonl"
    (tmp_path / "prompts.txt").write_text("The quick brown fox\nThe quick brown dog jumps over the lazy dog\n")
    sampling = ["--temperature", "0.8", "--seed", "7", "--n", "2", "--max-tokens", "12", "--min-tokens", "12"]
    pool = ["--block-size", "4", "--num-blocks", "12", "--max-num-batched-tokens", "16", "--max-num-seqs", "4"]
    out = io.StringIO()

    status = main(["--model", str(model), *sampling, *pool, "--record", str(steps), str(tmp_path / "prompts.txt")], out)

    text = out.getvalue()
    assert status == 0, capsys.readouterr().err
    assert "pushed back" in text
    assert all(f"  #{name} ends (length)" in text for name in ("0.0", "0.1", "1.0", "1.1"))
    num_steps = len(steps.read_text().splitlines()) - HEADER_LINES
    assert num_steps == text.count("\nstep ")

    replayed = io.StringIO()
    assert main(["--model", str(model), "--replay", str(steps)], replayed) == 0
    assert replayed.getvalue().endswith(f"{num_steps} steps, all the same\n")

    # Other weights give other answers, and the replay says from where on.
    other, seen = write_folder(tmp_path / "other", changes={**size, "initializer_range": 0.25}), io.StringIO()
    assert main(["--model", str(other), "--replay", str(steps)], seen) == 1
    assert "steps are different; the first is step" in seen.getvalue().splitlines()[-1]


def test_a_recording_of_another_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = io.StringIO()
    traced([generation("0", (65,), 2)], settings(16), recording)
    (tmp_path / "steps.jsonl").write_text(recording.getvalue())
    model = write_folder(tmp_path / "model")

    assert main(["--model", str(model), "--replay", str(tmp_path / "steps.jsonl")]) == 1

    assert "the recording is of a model whose architecture is hash; this one's is llama\n" in capsys.readouterr().err

"""What the trial's worker answers."""

from __future__ import annotations

from pathlib import Path

from mesh.errors import CorruptArtifact
from predictor.runtimes.trial_worker import verdict

PATH = Path("/folder/model.bin")


def test_what_reads_has_no_error_and_a_size() -> None:
    answer = verdict(lambda path: bytearray(32 << 20), PATH)

    assert answer["error"] is None
    assert isinstance(answer["memory_bytes"], int)
    assert answer["memory_bytes"] >= 0


def test_a_refusal_is_answered_with_its_own_sentence() -> None:
    def refuse(path: Path) -> object:
        raise CorruptArtifact(f"{path.name} is bad")

    assert verdict(refuse, PATH) == {"error": "model.bin is bad"}


def test_too_much_memory_is_said_so() -> None:
    def want(path: Path) -> object:
        raise MemoryError

    assert verdict(want, PATH) == {"error": "model.bin wants more memory than a file of its size may"}


def test_any_other_fault_is_named_and_brings_its_traceback() -> None:
    answer = verdict(lambda path: 1 / 0, PATH)

    assert answer["error"] == "model.bin cannot be read (ZeroDivisionError)"
    assert "1 / 0" in str(answer["traceback"])

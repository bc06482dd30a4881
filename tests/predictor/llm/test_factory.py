"""The product's factory turns settings and a model file into what an engine process runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mesh.errors import InvalidInput
from predictor.llm.factory import load_torch_model, num_usable_cpus
from predictor.llm.settings import EngineSettings


def test_facts_and_vocabulary_come_from_the_file(smollm2_gguf: Path) -> None:
    told: list[tuple[str, float]] = []
    settings = EngineSettings(dtype="float32", num_threads=1)

    model = load_torch_model(smollm2_gguf, settings, lambda stage, share: told.append((stage, share)))

    assert (model.facts.architecture, model.facts.num_layers, model.facts.vocab_size) == ("llama", 30, 49_152)
    assert model.facts.dtype == "float32"
    assert model.backend.block_bytes(16) == 16 * 30 * 2 * 3 * 64 * 4
    assert model.vocabulary.id_to_bytes(253) == b" a"
    assert model.vocabulary.eos_ids
    assert model.free_bytes() > 0
    assert told[-1] == ("weights", 1.0)


def test_a_wrong_dtype_is_refused(smollm2_gguf: Path) -> None:
    with pytest.raises(InvalidInput, match="dtype is 'float99'"):
        load_torch_model(smollm2_gguf, EngineSettings(dtype="float99"), lambda stage, share: None)


def test_the_process_that_serves_clients_stays_free_of_torch() -> None:
    code = "import sys, predictor.llm.client; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_there_is_a_processor_to_use() -> None:
    assert num_usable_cpus() >= 1

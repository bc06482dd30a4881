"""The table of architectures."""

from __future__ import annotations

import pytest

from mesh.errors import NotFound
from predictor.llm.models import ARCHITECTURES, find_architecture


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_row_leads_to_a_class(name: str) -> None:
    assert callable(find_architecture(name))


def test_an_unknown_architecture_is_answered_with_the_known_ones() -> None:
    with pytest.raises(NotFound, match="unknown model architecture 'gpt5'; known are: llama, mistral, qwen2"):
        find_architecture("gpt5")

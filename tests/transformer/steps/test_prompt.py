"""Every step of the table can be built, and steps that write prompts are recognised as such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from mesh.plugins import load
from transformer.steps import STEPS
from transformer.steps.prompt import PromptStep, StepServices


class NoTemplates:
    async def run(self, what: str, template: str, variables: Sequence[Mapping[str, object]]) -> list[str]:
        return ["" for _ in variables]


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_built_from_the_services_alone(name: str) -> None:
    step = load(STEPS, name, "transformer step")(StepServices(templates=NoTemplates(), wall_time_s=lambda: 0.0))

    assert isinstance(step, PromptStep)

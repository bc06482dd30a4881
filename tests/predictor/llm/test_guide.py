"""A spec is a value: it is compared, hashed as a key, and sent between processes; its kinds are the contract's."""

from __future__ import annotations

import pickle

from mesh.v1 import language_model_pb2
from predictor.llm.guide import GuideKind, GuideSpec


def test_kinds_are_the_fields_of_the_contract() -> None:
    fields = {field.name for field in language_model_pb2.Guide.DESCRIPTOR.fields}

    assert {kind.value for kind in GuideKind} == fields


def test_equal_specs_are_one_key_in_any_process() -> None:
    spec = GuideSpec(GuideKind.CHOICES, choices=("yes", "no"))

    copy = pickle.loads(pickle.dumps(spec))  # noqa: S301 -- our own bytes

    assert copy == spec
    assert len({spec, copy, GuideSpec(GuideKind.CHOICES, choices=("no", "yes"))}) == 2

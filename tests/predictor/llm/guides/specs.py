"""Specs by kind, in few characters."""

from __future__ import annotations

import json

from predictor.llm.guide import GuideKind, GuideSpec


def json_schema(schema: object) -> GuideSpec:
    """schema: as Python values, or as text."""
    return GuideSpec(GuideKind.JSON_SCHEMA, schema if isinstance(schema, str) else json.dumps(schema))


def json_object() -> GuideSpec:
    return GuideSpec(GuideKind.JSON_OBJECT)


def regex(source: str) -> GuideSpec:
    return GuideSpec(GuideKind.REGEX, source)


def grammar(source: str) -> GuideSpec:
    return GuideSpec(GuideKind.GRAMMAR, source)


def choices(*texts: str) -> GuideSpec:
    return GuideSpec(GuideKind.CHOICES, choices=texts)

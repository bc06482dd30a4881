"""Plug-ins by name."""

from __future__ import annotations

import json

import pytest

from mesh import plugins
from mesh.errors import NotFound

TABLE = {"json": "json:JSONDecoder", "broken": "no_such_module:Name"}


def test_name_is_resolved() -> None:
    assert plugins.load(TABLE, "json", "decoder") is json.JSONDecoder


def test_row_that_is_not_asked_for_is_not_imported() -> None:
    with pytest.raises(ModuleNotFoundError):
        plugins.load(TABLE, "broken", "decoder")


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(NotFound, match="unknown decoder 'xml'; known are: broken, json"):
        plugins.load(TABLE, "xml", "decoder")

"""A package that is left out cannot be imported meanwhile, and can afterwards."""

from __future__ import annotations

import importlib
import sys

import pytest

from predictor.runtimes.left_out import left_out


def test_a_package_and_what_is_inside_of_it_are_left_out() -> None:
    with left_out("wsgiref", "xml.dom"):
        for name in ("wsgiref", "wsgiref.util", "xml.dom"):
            sys.modules.pop(name, None)
            with pytest.raises(ModuleNotFoundError, match="is left out"):
                importlib.import_module(name)
        importlib.import_module("xml.etree")

    assert importlib.import_module("wsgiref.util")
    assert not any("_Absent" in type(finder).__name__ for finder in sys.meta_path)

"""`skops.io`, imported without torch.

skops asks scikit-learn for all of its estimators, and that walk imports every package in it, an adapter for torch
among them. torch in this process would cost 1.6 s of every start and 180 MB, and nothing here uses it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_ADAPTER = "sklearn.externals.array_api_compat.torch"


class _WithoutAdapter:
    """First on `sys.meta_path`: the walk takes a package that cannot be imported for one that is not there."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == _ADAPTER:
            raise ModuleNotFoundError(f"{name} is left out", name=name)


@contextmanager
def _adapter_left_out() -> Iterator[None]:
    sys.meta_path.insert(0, _WithoutAdapter)
    try:
        yield
    finally:
        sys.meta_path.remove(_WithoutAdapter)


with _adapter_left_out():
    from skops.io import get_untrusted_types, load
    from skops.io.exceptions import UntrustedTypesFoundException

__all__ = ["UntrustedTypesFoundException", "get_untrusted_types", "load"]

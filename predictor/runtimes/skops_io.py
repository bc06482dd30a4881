"""`skops.io`, imported without torch.

skops asks scikit-learn for all of its estimators, and that walk imports every package in it, an adapter for torch
among them. torch in this process would cost 1.6 s of every start and 180 MB, and nothing here uses it.
"""

from __future__ import annotations

from predictor.runtimes.left_out import left_out

# The walk takes a package that cannot be imported for one that is not there.
with left_out("sklearn.externals.array_api_compat.torch"):
    from skops.io import get_untrusted_types, load
    from skops.io.exceptions import UntrustedTypesFoundException

__all__ = ["UntrustedTypesFoundException", "get_untrusted_types", "load"]

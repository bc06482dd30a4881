"""The dtypes of arrays by the protocol's names for them, where `mesh.tensors` would bring its messages along.

Runtimes know no messages, and a process of a Python class starts sooner without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# As mesh.tensors.DATATYPES has them: BF16, which numpy lacks, is widened to float32.
DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(code)
    for name, code in {
        "BOOL": "?",
        "UINT8": "<u1",
        "UINT16": "<u2",
        "UINT32": "<u4",
        "UINT64": "<u8",
        "INT8": "<i1",
        "INT16": "<i2",
        "INT32": "<i4",
        "INT64": "<i8",
        "FP16": "<f2",
        "BF16": "<f4",
        "FP32": "<f4",
        "FP64": "<f8",
        "BYTES": "O",
    }.items()
}

"""The process that serves classical models imports no torch for them."""

from __future__ import annotations

import subprocess
import sys


def _printed(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return run.stdout.strip()


def test_the_runtime_of_scikit_learn_brings_no_torch() -> None:
    code = "import sys, predictor.runtimes.sklearn; print('torch' in sys.modules, 'sklearn' in sys.modules)"

    assert _printed(code) == "False True"


def test_skops_knows_the_same_estimators_as_with_torch() -> None:
    count = "from skops.io._trusted_types import SKLEARN_ESTIMATOR_TYPE_NAMES as n; print(len(n), sorted(n)[::40])"

    assert _printed(f"import predictor.runtimes.skops_io; {count}") == _printed(count)


def test_others_may_import_the_adapter_afterwards() -> None:
    code = "import predictor.runtimes.skops_io, sys; print(any('Adapter' in str(one) for one in sys.meta_path))"

    assert _printed(code) == "False"

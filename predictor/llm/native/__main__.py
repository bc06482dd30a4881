"""Compiles the kernels beforehand, for every CPU that they are fast on: what an image without a compiler needs.

python -m predictor.llm.native [--to DIR]
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

from mesh.errors import MeshError
from predictor.llm.native.compiler import PREBUILT_DIR, prebuild
from predictor.llm.native.targets import PORTABLE, X86_TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m predictor.llm.native", description=__doc__)
    parser.add_argument("--to", type=Path, default=PREBUILT_DIR, metavar="DIR", help="default: %(default)s")
    args = parser.parse_args()
    try:
        prebuild(args.to, X86_TARGETS if platform.machine() == "x86_64" else (PORTABLE,))
    except MeshError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

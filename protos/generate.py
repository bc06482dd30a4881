"""Generates the committed stubs from the protos, or checks that they are fresh (`--check`).

protoc derives Python imports from the file path, so the path under protos/ equals the import path and nothing needs
rewriting afterwards. mypy-protobuf writes typed stubs that let mypy catch a servicer that forgets an RPC.
"""

from __future__ import annotations

import argparse
import filecmp
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
ROOT = PROTOS.parent


def sources() -> list[Path]:
    """All .proto files, relative to protos/."""
    return sorted(path.relative_to(PROTOS) for path in PROTOS.rglob("*.proto"))


def generate(into: Path) -> list[Path]:
    """Write the stubs of all protos below `into`; returns their paths, relative to `into`."""
    well_known = Path(str(files("grpc_tools"))) / "_proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{well_known}"]
    command += [f"--{kind}_out={into}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    command += [str(source) for source in sources()]
    subprocess.run(command, check=True, cwd=PROTOS, env=_environment())
    for folder in {source.parent for source in sources()}:
        doc = f'"""Generated from protos/{folder.as_posix()}; do not edit."""\n'
        (into / folder / "__init__.py").write_text(doc)
    return sorted(path.relative_to(into) for path in into.rglob("*.py*") if "__pycache__" not in path.parts)


def _environment() -> dict[str, str]:
    # protoc finds its plug-ins (protoc-gen-mypy) on PATH: the ones beside this interpreter.
    return {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}


def check() -> list[Path]:
    """Committed stubs that differ from what the protos give."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        stubs = generate(fresh)
        return [s for s in stubs if not (ROOT / s).exists() or not filecmp.cmp(fresh / s, ROOT / s, shallow=False)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a committed stub is stale")
    if not parser.parse_args().check:
        with tempfile.TemporaryDirectory() as folder:
            for stub in generate(Path(folder)):
                target = ROOT / stub
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((Path(folder) / stub).read_bytes())
        return 0
    stale = check()
    for stub in stale:
        print(f"stale stub: {stub} (run `make protos`)", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

"""Checks that no proto breaks the wire, against the last release, or the commit before when there is no release yet.

`buf breaking` compares two sets of protos; this finds the older one with git, so that it works offline.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def base_commit() -> str | None:
    """The newest release tag, else the parent of HEAD; None in a repository of one commit."""
    release = _git("describe", "--tags", "--abbrev=0", "--match", "v*")
    return release or _git("rev-parse", "--verify", "--quiet", "HEAD~1")


def _git(*arguments: str) -> str | None:
    found = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def main() -> int:
    base = base_commit()
    if base is None:
        print("breaking: no older commit to compare with")
        return 0
    archive = subprocess.run(["git", "archive", base, "protos", "buf.yaml"], cwd=ROOT, capture_output=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
        buf = str(Path(sys.executable).parent / "buf")
        return subprocess.run([buf, "breaking", "--against", folder], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

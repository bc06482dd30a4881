"""Train scikit-learn's iris classifier and save it as a model folder that the predictor serves.

    python -m examples.train_iris --out iris

The same data and seed give the same model. The folder appears whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

import skops.io
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def train(out: Path) -> None:
    """Write `out`/model.skops and `out`/metadata.json; an existing folder is replaced."""
    iris = load_iris()
    model = make_pipeline(StandardScaler(), LogisticRegression(random_state=0)).fit(iris.data, iris.target)
    metadata = {
        "feature_names": list(iris.feature_names),
        "class_names": [str(name) for name in iris.target_names],
        "feature_baseline": [round(float(mean), 6) for mean in iris.data.mean(axis=0)],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    unfinished.chmod(0o755)
    try:
        _write(unfinished / "model.skops", skops.io.dumps(model))
        _write(unfinished / "metadata.json", json.dumps(metadata, indent=2).encode())
        if out.exists():
            shutil.rmtree(out)
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the iris classifier.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; replaced when it exists")
    out = parser.parse_args().out
    train(out)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()

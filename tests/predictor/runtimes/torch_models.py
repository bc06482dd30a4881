"""Exported programs for tests, and ways to spoil their files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

PROGRAM = "models/model.json"


class Classifier(torch.nn.Module):
    """A small multilayer perceptron."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features: [n, 4] → logits: [n, 3]."""
        logits: torch.Tensor = self.layers(features)
        return logits


def export(
    path: Path, model: torch.nn.Module, inputs: tuple[Any, ...], dynamic_shapes: Any = None, **kwargs: Any
) -> Path:
    """Write the exported `model` to `path`."""
    torch.export.save(torch.export.export(model, inputs, kwargs, dynamic_shapes=dynamic_shapes), path)
    return path


def export_classifier(path: Path, max_batch_size: int = 64) -> Path:
    batch = Dim("batch", min=1, max=max_batch_size)
    return export(path, Classifier().eval(), (torch.randn(2, 4),), {"features": {0: batch}})


def respelled(path: Path, target: Path, respell: Callable[[str, bytes], bytes | None]) -> Path:
    """`path` with each entry's content as `respell(name, content)` gives it; None leaves the entry out."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for info in source.infolist():
            content = respell(info.filename.partition("/")[2], source.read(info))
            if content is not None:
                copy.writestr(info.filename, content)
    return target


def changed(path: Path, target: Path, entry: str, change: Callable[[Any], None]) -> Path:
    """`path` with one JSON entry changed in place by `change`."""

    def respell(name: str, content: bytes) -> bytes:
        if name != entry:
            return content
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return respelled(path, target, respell)

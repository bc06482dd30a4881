"""The servers that MeshServe is measured beside: how each is installed and started. `python -m bench.peers` installs.

Each has an environment of its own under `.bench/peers/`, made models lie under `.bench/models/`; both can be deleted.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".bench" / "peers"
MODELS = ROOT / ".bench" / "models"
HOW_TO_INSTALL = "make bench-peers"

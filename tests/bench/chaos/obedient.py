"""A process that does what every service does at its start, and keeps a child: `python -m tests.bench.chaos.obedient`.

`--ready-file FILE` is where it says that it listens. `--stubborn` hears no SIGTERM; `--broken` ends at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    if "--broken" in arguments:
        sys.exit("I am broken")
    if "--stubborn" in arguments:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    port = arguments[arguments.index("--grpc-port") + 1]
    record = {"pid": os.getpid(), "grpc_address": f"127.0.0.1:{port}", "metrics_address": "127.0.0.1:9"}
    Path(arguments[arguments.index("--ready-file") + 1]).write_text(json.dumps(record))
    try:
        child.wait()
    finally:
        child.kill()


if __name__ == "__main__":
    main(sys.argv[1:])

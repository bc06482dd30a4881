"""A service for the supervisor's tests: a gRPC health server with the flags and files of a real one.

    python fake_service.py --name registry --port 4711 --ready-file FILE [--model NAME]… [--behaviour B]

Behaviours: serve; mute (runs, never answers); die (status 1); bad-setting (status 2); deaf (ignores SIGTERM);
freezing (lives on and
answers nothing more once FILE.freeze exists); moody (NOT_SERVING while FILE.quiet exists);
late-model (says the model's progress, and serves it only once FILE.go exists).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def say(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--behaviour", default="serve")
    parser.add_argument("--grandchild", action="store_true")
    arguments = parser.parse_args()

    if arguments.behaviour in ("die", "bad-setting"):
        say("service_failed", error="the cat sat on the cable")
        sys.exit(1 if arguments.behaviour == "die" else 2)
    stopping = threading.Event()
    # In a thread: the handler runs inside whatever the main thread does, which may hold the event's own lock.
    end = threading.Thread(target=stopping.set)
    signal.signal(signal.SIGTERM, lambda *_: arguments.behaviour == "deaf" or end.ident is not None or end.start())
    if arguments.grandchild:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        say("grandchild", pid=child.pid)
    if arguments.behaviour == "mute":
        say("still_thinking")
        stopping.wait()
        return
    serve(arguments, stopping)
    say("stopped", at=time.time())
    # Not through the interpreter's own end, which waits for the threads of gRPC's server for as long as they like.
    os._exit(0)


def serve(arguments: argparse.Namespace, stopping: threading.Event) -> None:
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{arguments.port}")
    server.start()
    servicer.set("", SERVING)
    record = {"pid": os.getpid(), "grpc_address": f"127.0.0.1:{arguments.port}"}
    draft = arguments.ready_file.with_suffix(".draft")
    draft.parent.mkdir(parents=True, exist_ok=True)
    draft.write_text(json.dumps(record))
    draft.replace(arguments.ready_file)
    say("listening", **record)
    if arguments.behaviour == "late-model":
        for done in (10_000_000, 98_000_000):
            say("model_progress", model=arguments.model[0], stage="download", done=done, total=98_000_000)
        go = Path(f"{arguments.ready_file}.go")
        while not go.exists() and not stopping.wait(0.02):
            pass
    for model in arguments.model:
        if model.startswith("broken"):
            say("model_failed", model=model, error="its file is truncated")
        else:
            servicer.set(model, SERVING)
            say("model_loaded", model=model)
    if arguments.behaviour == "freezing":
        freeze = Path(f"{arguments.ready_file}.freeze")
        while not stopping.wait(0.02):
            if freeze.exists():
                freeze.unlink()
                server.stop(None)
    if arguments.behaviour == "moody":
        quiet, is_quiet = Path(f"{arguments.ready_file}.quiet"), False
        while not stopping.wait(0.02):
            if quiet.exists() != is_quiet:
                is_quiet = not is_quiet
                servicer.set("", NOT_SERVING if is_quiet else SERVING)
    stopping.wait()
    server.stop(0.1).wait(2.0)


if __name__ == "__main__":
    main()

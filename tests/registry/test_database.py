"""The database keeps what it acknowledged: compared with plain dicts, reopened, and killed."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import Conflict, InvalidInput, Unavailable
from registry.catalog import ModelVersion, PromptVersion
from registry.database import Database
from tests.registry.test_catalog import Memory

NAMES = st.sampled_from(["a", "b"])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("version"), NAMES, st.dictionaries(NAMES, st.text(max_size=5), max_size=2)),
        st.tuples(st.just("alias"), NAMES, NAMES),
        st.tuples(st.just("prompt"), NAMES, st.text(min_size=1, max_size=5)),
        st.tuples(st.just("put"), NAMES, st.sampled_from(["x", "y"])),
        st.tuples(st.just("seed"), NAMES, st.sampled_from(["x", "y"])),
        st.tuples(st.just("delete"), NAMES),
        st.tuples(st.just("reopen")),
    ),
    max_size=25,
)
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


@settings(deadline=None, max_examples=40)
@given(operations=OPERATIONS)
def test_database_is_what_the_dicts_say(operations: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url, memory = f"sqlite:///{folder}/registry.db", Memory()
        database = Database(url)
        for operation in operations:
            match operation:
                case ("version", str(name), dict(tags)):
                    version = ModelVersion(name, "file:///m", "x", tags=tags, created_at=MOMENT)
                    assert database.add_model_version(version) == memory.add_model_version(version)
                case ("alias", str(name), str(alias)):
                    if last := memory.last_model_version(name):
                        database.set_alias(name, alias, last)
                        memory.set_alias(name, alias, last)
                    assert database.alias(name, alias) == memory.alias(name, alias)
                case ("prompt", str(name), str(template)):
                    prompt = PromptVersion(name, template, created_at=MOMENT)
                    assert database.add_prompt_version(prompt) == memory.add_prompt_version(prompt)
                case ("put", str(name), str(spec)):
                    assert database.put_deployment(name, spec) == memory.put_deployment(name, spec)
                case ("seed", str(name), str(spec)):
                    assert database.seed(name) == memory.seed(name)
                    database.put_seed(name, spec)
                    memory.put_seed(name, spec)
                    assert database.seed(name) == spec
                case ("delete", str(name)):
                    assert database.delete_deployment(name) == memory.delete_deployment(name)
                case _:
                    database.close()
                    database = Database(url)
            assert database.models() == memory.models()
            assert database.deployments() == memory.deployments()
        database.close()


def test_concurrent_writers_never_share_a_number(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/registry.db")
    version = ModelVersion("a", "file:///m", "x", created_at=MOMENT)
    with ThreadPoolExecutor(8) as threads:
        stored = list(threads.map(lambda _: database.add_model_version(version).version, range(64)))
    database.close()

    assert sorted(stored) == list(range(1, 65))


_WRITER = """
import sys
from datetime import UTC, datetime
from registry.catalog import ModelVersion
from registry.database import Database
database = Database(sys.argv[1])
version = ModelVersion("a", "file:///m", "x", created_at=datetime.now(UTC))
while True:
    print(database.add_model_version(version).version, flush=True)
"""


def test_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    for kill_after in (1, 4, 9):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, url], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(kill_after)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
        writer.wait()
        database = Database(url)
        last = database.last_model_version("a")
        numbers = [version.version for version in database.models()[0].versions]
        database.close()

        assert last >= acknowledged[-1]
        assert numbers == list(range(1, last + 1))


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nonsense", "is not a URL like sqlite"),
        ("mysql://h/db", "is not supported; use sqlite"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_wrong_url_says_what_is_right(url: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        Database(url)


def test_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_text("not a database, but long enough to be read as one " * 100)
    with pytest.raises(Unavailable, match=r"registry\.db cannot be used now: file is not a database"):
        Database(f"sqlite:///{path}")


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be used now"):
        Database(f"sqlite:///{tmp_path}/file/registry.db")


@pytest.mark.slow
def test_writer_that_holds_the_lock_too_long_is_unavailable_and_nothing_is_stored(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/registry.db")
    other = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="database is locked"):
        database.put_deployment("a", "x")
    other.execute("ROLLBACK")
    other.close()

    assert database.deployments() == []
    database.close()


def test_of_writers_that_changed_the_same_generation_one_wins(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/registry.db")
    database.put_deployment("a", "first")

    def put(number: int) -> bool:
        try:
            return database.put_deployment("a", f"by {number}", expected_generation=1)[1]
        except Conflict:
            return False

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(put, range(32)))
    [stored] = database.deployments()
    database.close()

    assert won.count(True) == 1
    assert (stored.generation, stored.spec) == (2, f"by {won.index(True)}")

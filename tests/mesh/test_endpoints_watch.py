"""The file of static endpoints, changed in every way that people and Kubernetes change files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mesh.endpoints_watch import EndpointsWatch
from mesh.errors import InvalidInput
from mesh.view import MeshView

DEPLOYMENTS = 'deployments: [{name: iris, predictor: {model_format: sklearn, storage_uri: "file:///m"}}]\n'


def described(*ports: int) -> str:
    return f"endpoints: {{predictor: {[f'127.0.0.1:{port}' for port in ports]}}}\n{DEPLOYMENTS}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "endpoints.yaml"
    path.write_text(described(1))
    return path


@pytest.fixture
def watch(path: Path) -> EndpointsWatch:
    watch = EndpointsWatch(path)
    assert ports(watch.read()) == [1]
    return watch


def ports(view: MeshView | None) -> list[int] | None:
    if view is None:
        return None
    return sorted(int(replica.address.rpartition(":")[2]) for replica in view.replicas.values())


def look_twice(watch: EndpointsWatch) -> list[int] | None:
    assert watch.look() is None, "what was seen once may still be being written"
    return ports(watch.look())


def test_the_same_file_is_nothing_new(watch: EndpointsWatch, path: Path) -> None:
    path.touch()

    assert [watch.look() for _ in range(3)] == [None] * 3


def test_a_change_counts_once_and_when_it_has_settled(watch: EndpointsWatch, path: Path) -> None:
    path.write_text(described(1, 2))

    assert look_twice(watch) == [1, 2]
    assert watch.look() is None


def test_a_file_that_is_still_written_does_not_count(watch: EndpointsWatch, path: Path) -> None:
    whole = described(1, 2)
    for size in range(1, len(whole)):
        path.write_text(whole[:size])
        assert watch.look() is None
    path.write_text(whole)

    assert look_twice(watch) == [1, 2]


def test_a_swapped_link_counts_as_with_a_config_map(tmp_path: Path) -> None:
    for version in (1, 2):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "endpoints.yaml").write_text(described(version))
    data, path = tmp_path / "..data", tmp_path / "endpoints.yaml"
    data.symlink_to("..1")
    path.symlink_to("..data/endpoints.yaml")
    watch = EndpointsWatch(path)
    assert ports(watch.read()) == [1]
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").replace(data)

    assert look_twice(watch) == [2]


@pytest.mark.parametrize("wrong", ["", "endpoints: [", "endpoints: {predictor: [x]}\n" + DEPLOYMENTS, "\udcff"])
def test_a_wrong_file_is_refused_once_with_a_reason_and_its_repair_counts(
    watch: EndpointsWatch, path: Path, wrong: str
) -> None:
    path.write_bytes(wrong.encode("utf-8", "surrogateescape"))
    with capture_logs() as logs:
        assert [watch.look() for _ in range(4)] == [None] * 4
    path.write_text(described(3))

    assert [entry["event"] for entry in logs] == ["endpoints_refused"]
    assert str(path) in logs[0]["reason"]
    assert look_twice(watch) == [3]


def test_a_removed_file_changes_nothing_and_its_return_counts(watch: EndpointsWatch, path: Path) -> None:
    path.unlink()
    with capture_logs() as logs:
        assert [watch.look() for _ in range(4)] == [None] * 4
    path.write_text(described(4))

    assert [entry["event"] for entry in logs] == ["endpoints_gone"]
    assert look_twice(watch) == [4]


def test_the_first_reading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.yaml: cannot be read: No such file"):
        EndpointsWatch(tmp_path / "none.yaml").read()


CONTENTS = st.sampled_from([*(described(*range(1, count + 1)) for count in range(4)), "", "nonsense", None])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(CONTENTS, st.just("look")), max_size=30))
def test_what_is_known_is_always_a_whole_file_that_was_there(path: Path, steps: list[str | None]) -> None:
    path.write_text(described(1))
    watch = EndpointsWatch(path)
    known, written = ports(watch.read()), [described(1)]
    valid = {described(*range(1, count + 1)): list(range(1, count + 1)) for count in range(4)}
    for step in [*steps, "look", "look"]:
        if step == "look":
            view = watch.look()
            if view is not None:
                known = ports(view)
                assert known == valid[written[-1]]
        elif step is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(step)
            written.append(step)
    if path.exists() and written[-1] in valid:
        assert known == valid[written[-1]]

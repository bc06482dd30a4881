"""Metadata is kept for a while, and not longer than the deployment stays as it was."""

from __future__ import annotations

from gateway.metadata_cache import MAX_ENTRIES, TTL_S, MetadataCache
from mesh.oip import open_inference_pb2 as oip
from mesh.v1.registry_pb2 import Deployment

METADATA = oip.ModelMetadataResponse(name="iris")


def test_answer_is_kept_until_its_time_is_up() -> None:
    now = [0.0]
    cache = MetadataCache(clock=lambda: now[0])
    cache.put(Deployment(name="iris"), "", METADATA)

    now[0] = TTL_S - 1
    assert cache.get(Deployment(name="iris"), "") is METADATA
    assert cache.get(Deployment(name="iris"), "2") is None
    now[0] = TTL_S
    assert cache.get(Deployment(name="iris"), "") is None


def test_changed_deployment_is_asked_again() -> None:
    cache = MetadataCache(clock=lambda: 0.0)
    cache.put(Deployment(name="iris", generation=1), "", METADATA)

    assert cache.get(Deployment(name="iris", generation=2), "") is None


def test_number_of_entries_is_bounded() -> None:
    cache = MetadataCache(clock=lambda: 0.0)
    for number in range(MAX_ENTRIES + 1):
        cache.put(Deployment(name=f"m{number}"), "", METADATA)

    assert cache.get(Deployment(name="m0"), "") is None
    assert cache.get(Deployment(name=f"m{MAX_ENTRIES}"), "") is METADATA

"""ModelMetadata that was asked for lately, so that V1 requests need no second call each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from mesh.oip import open_inference_pb2 as oip
from mesh.v1.registry_pb2 import Deployment

MAX_ENTRIES = 1024
TTL_S = 30.0

Entry = tuple[float, Deployment, oip.ModelMetadataResponse]


class MetadataCache:
    """At most MAX_ENTRIES answers, each for TTL_S seconds, and only as long as the deployment stays as it was."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str], Entry] = OrderedDict()

    def get(self, deployment: Deployment, version: str) -> oip.ModelMetadataResponse | None:
        """The answer for this version, if it is known and fresh."""
        entry = self._entries.get((deployment.name, version))
        if entry is None:
            return None
        expires, described, metadata = entry
        if self._clock() >= expires or described != deployment:
            del self._entries[deployment.name, version]
            return None
        return metadata

    def put(self, deployment: Deployment, version: str, metadata: oip.ModelMetadataResponse) -> None:
        """Keep an answer; the oldest one leaves when there are too many."""
        self._entries[deployment.name, version] = (self._clock() + TTL_S, deployment, metadata)
        while len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)

"""Reads the file of static endpoints again whenever it changes.

By its content, looked at now and then: no notice of the file system works for all of a plain file, a network mount, and
Kubernetes' ConfigMaps, which swap a link two folders above. A content counts when two looks in a row found it, so a
file that somebody is still writing does not; one that is wrong or gone changes nothing and is logged once. Knows no
clock and no event loop; it blocks.
"""

from __future__ import annotations

from pathlib import Path

from mesh.endpoints_file import parse_endpoints
from mesh.errors import InvalidInput
from mesh.logs import get_logger
from mesh.view import MeshView

log = get_logger(__name__)

# Seconds between two looks; what is written whole counts after two of them.
LOOK_EVERY_S = 0.5


class EndpointsWatch:
    """One file, from its first reading on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: bytes | None = None
        self._decided: bytes | None = None

    def read(self) -> MeshView:
        """The mesh that the file describes now. Raises InvalidInput with a sentence that names file and field."""
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise InvalidInput(f"{self._path}: cannot be read: {error.strerror}") from error
        view = parse_endpoints(content, str(self._path))
        self._seen = self._decided = content
        return view

    def look(self) -> MeshView | None:
        """The mesh that the file describes since it changed; None while there is nothing new to take."""
        try:
            content = self._path.read_bytes()
        except OSError:
            content = None
        has_settled, self._seen = content == self._seen, content
        if not has_settled or content == self._decided:
            return None
        self._decided = content
        if content is None:
            log.error("endpoints_gone", file=str(self._path))
            return None
        try:
            view = parse_endpoints(content, str(self._path))
        except InvalidInput as error:
            log.error("endpoints_refused", reason=error.message)
            return None
        log.info("endpoints_read", file=str(self._path), replicas=len(view.replicas))
        return view

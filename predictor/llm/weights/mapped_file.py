"""A file as read-only memory: its pages come from disk when they are touched, and go when memory is short.

Knows no format. A file that is there but empty cannot be mapped, and no model file is empty: it is corrupt.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from mesh.errors import CorruptArtifact, NotFound, Unavailable


def map_file(path: Path) -> mmap.mmap:
    """Map the whole file. Raises NotFound, CorruptArtifact for an empty file, Unavailable for an unreadable one."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise NotFound(f"model file {path.name!r} does not exist") from error
    except ValueError as error:  # mmap's answer to an empty file
        raise CorruptArtifact(f"{path.name}: the file is empty") from error
    except OSError as error:
        raise Unavailable(f"model file {path.name!r} cannot be read: {error.strerror}") from error

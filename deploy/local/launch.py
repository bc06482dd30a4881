"""Become another program that dies with the supervisor: `python launch.py <parent pid> <program> <argument>…`.

Run as a script in an interpreter without site-packages, which costs 10 ms. A `preexec_fn` would do the same, but it
runs Python between fork and exec, in a process whose gRPC threads hold locks. The kernel keeps the death signal over
exec (prctl(2), PR_SET_PDEATHSIG). Where there is no prctl, children end only when the supervisor stops them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Replace this process by the program in `arguments[1:]`."""
    parent = int(arguments[0])
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before the death signal was set: then nobody would ever send it.
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(arguments[1], arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])

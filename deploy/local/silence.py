"""How long a service that runs has not served: news when it lasts, and given up when it says nothing at all.

A process that ends is silent for a moment first; that it ended is the better news, so silence waits before it speaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from deploy.local.health import Health


@dataclass(frozen=True, slots=True)
class SilencePolicy:
    """Silence of `lasting_s` seconds is news; a process that gave no answer for `frozen_s` seconds is frozen.

    `frozen_s` is long: on a busy machine a service that imports a large library gives none for many seconds.
    """

    lasting_s: float = 1.0
    frozen_s: float = 60.0


class Silence:
    """The silence of one process. Timers run on the event loop; `end` stops them."""

    def __init__(self, policy: SilencePolicy, on_lasting: Callable[[], None], on_frozen: Callable[[], None]) -> None:
        self.is_told = False
        self._policy = policy
        self._on_lasting = on_lasting
        self._on_frozen = on_frozen
        self._lasting: asyncio.TimerHandle | None = None
        self._frozen: asyncio.TimerHandle | None = None

    def hear(self, health: Health) -> None:
        """Take what the service says now, or that it says nothing."""
        if health is Health.SERVING:
            self.end()
            return
        loop = asyncio.get_running_loop()
        if self._lasting is None:
            self._lasting = loop.call_later(self._policy.lasting_s, self._tell)
        if health is Health.NO_ANSWER:
            self._frozen = self._frozen or loop.call_later(self._policy.frozen_s, self._on_frozen)
        elif self._frozen is not None:
            # It says that it does not serve, so it is not frozen: it may be draining, or loading anew.
            self._frozen.cancel()
            self._frozen = None

    def end(self) -> None:
        """The service serves, or its process is gone."""
        for timer in (self._lasting, self._frozen):
            if timer is not None:
                timer.cancel()
        self._lasting = self._frozen = None
        self.is_told = False

    def _tell(self) -> None:
        self.is_told = True
        self._on_lasting()

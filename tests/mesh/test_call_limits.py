"""The limits of calls follow from the settings of a service that makes them."""

from __future__ import annotations

from mesh.call_limits import CallLimits
from mesh.settings import CallingServiceSettings


def test_settings_become_limits() -> None:
    settings = CallingServiceSettings(
        max_in_flight_per_replica=7, max_queued=0, queue_timeout_s=2, hold_s=3, hedge_after_ms=250
    )

    assert settings.call_limits == CallLimits(7, 0, 2.0, 3.0, 0.25)


def test_a_pool_holds_and_hedges_only_where_it_is_told_to() -> None:
    assert (CallLimits().hold_s, CallLimits().hedge_after_s) == (0.0, 0.0)
    assert CallingServiceSettings().hedge_after_ms == 0

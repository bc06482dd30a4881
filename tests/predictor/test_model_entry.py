"""The state that follows from what is true of a model."""

from __future__ import annotations

import pytest

from predictor.loader import LoadedModel
from predictor.model_entry import Entry, Loading, ModelState, Resident
from predictor.residency import Phase, Slot
from predictor.statistics import ModelStatistics
from tests.predictor.fake_runtime import IdentityRuntime, spec


def entry(*, is_on_demand: bool = False, is_loaded: bool = False, is_loading: bool = False, **facts: object) -> Entry:
    made = Entry(spec("a"), is_on_demand)
    if is_loaded:
        model = LoadedModel(made.spec, "0" * 64, IdentityRuntime(), ModelStatistics())
        made.resident = Resident(made, Loading(), model, Slot(1), lost_reason=str(facts.pop("lost_reason", "")))
    if is_loading:
        made.loading = Loading()
    for name, value in facts.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("of", "state", "reason"),
    [
        (entry(), ModelState.UNAVAILABLE, "not loaded"),
        (entry(is_loading=True), ModelState.LOADING, ""),
        (entry(is_loaded=True), ModelState.READY, ""),
        (entry(is_loaded=True, is_loading=True), ModelState.READY, ""),
        (entry(is_loaded=True, failure="no file"), ModelState.READY, "the last load failed: no file"),
        (entry(is_loaded=True, lost_reason="died"), ModelState.UNAVAILABLE, "died"),
        (entry(failure="no file"), ModelState.UNAVAILABLE, "no file"),
        (entry(failure="no file", is_loading=True), ModelState.LOADING, ""),
        (entry(is_unloading=True), ModelState.UNLOADING, ""),
        (entry(is_unloading=True, is_loading=True), ModelState.LOADING, ""),
        (entry(is_unloaded=True), ModelState.UNAVAILABLE, "unloaded"),
        (entry(is_on_demand=True), ModelState.READY, "not in memory; the next request loads it"),
        (entry(is_on_demand=True, is_loading=True), ModelState.READY, "not in memory; being loaded for a request"),
        (entry(is_on_demand=True, failure="no file"), ModelState.UNAVAILABLE, "no file"),
        (entry(is_on_demand=True, failure="no file", is_loading=True), ModelState.LOADING, ""),
        (entry(is_on_demand=True, is_unloaded=True), ModelState.UNAVAILABLE, "unloaded"),
        (entry(is_on_demand=True, is_unloading=True, is_unloaded=True), ModelState.UNLOADING, ""),
    ],
)
def test_state_and_reason(of: Entry, state: ModelState, reason: str) -> None:
    assert (of.status.state, of.status.reason) == (state, reason)
    assert of.is_ready is (state is ModelState.READY)


def test_a_refusal_says_state_and_reason() -> None:
    assert entry(failure="no file").not_ready().message == "model 'a' is unavailable: no file"
    assert entry(is_loading=True).not_ready().message == "model 'a' is loading"


def test_a_load_is_abandoned_when_nobody_waits_and_nobody_ordered_it() -> None:
    assert Loading().is_abandoned
    assert not Loading(num_waiting=1).is_abandoned
    assert not Loading(is_wanted=True).is_abandoned


def test_a_load_waits_for_room_until_it_has_it() -> None:
    assert not Loading().waits_for_room
    assert Loading(slot=Slot(1)).waits_for_room
    assert not Loading(slot=Slot(1, Phase.LOADING)).waits_for_room

"""One supervised service: what it says of itself becomes its state, and silence is news only when it lasts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.local.events import ServiceServing, ServiceSilent, ServiceStarted, Warned
from deploy.local.service import ServiceState
from deploy.local.silence import SilencePolicy


async def test_a_process_that_runs_and_does_not_serve_is_reported_until_it_serves_again(fake_mesh: Any) -> None:
    spec = fake_mesh.spec("explainer", behaviour="moody")
    quiet, record = Path(f"{spec.ready_file}.quiet"), fake_mesh.record

    async with fake_mesh.supervised(spec) as supervisor:
        await record.until_ready()
        quiet.touch()
        await record.until(lambda: bool(record.of(ServiceSilent)))
        assert supervisor.services["explainer"].state is ServiceState.NOT_SERVING
        assert supervisor.awaited() == ("explainer (not serving)",)
        quiet.unlink()
        await record.until(lambda: len(record.of(ServiceServing)) == 2)

    assert [event.is_again for event in record.of(ServiceServing)] == [False, True]


async def test_a_process_that_gives_no_answer_any_more_is_replaced(fake_mesh: Any) -> None:
    spec = fake_mesh.spec("explainer", behaviour="freezing")
    record = fake_mesh.record

    async with fake_mesh.supervised(spec, silence=SilencePolicy(lasting_s=60, frozen_s=0.5)):
        await record.until_ready()
        Path(f"{spec.ready_file}.freeze").touch()
        await record.until(lambda: len(record.of(ServiceServing)) == 2)

    assert len(record.of(ServiceStarted)) == 2
    assert [event.text for event in record.of(Warned)] == [
        "explainer gives no answer any more: its process is replaced"
    ]


async def test_an_orderly_end_is_not_silence(fake_mesh: Any) -> None:
    async with fake_mesh.supervised(fake_mesh.spec("explainer")) as supervisor:
        await fake_mesh.record.until_ready()

    assert not fake_mesh.record.of(ServiceSilent)
    assert supervisor.services["explainer"].state is ServiceState.STOPPED


async def test_the_last_words_are_readable(fake_mesh: Any) -> None:
    async with fake_mesh.supervised(fake_mesh.spec("explainer", behaviour="mute")) as supervisor:
        service = supervisor.services["explainer"]
        await fake_mesh.record.until(lambda: service.last_words == "still_thinking")

        assert service.why_hopeless(num_starts=3, start_s=1000) is None
        assert service.why_hopeless(num_starts=3, start_s=0) == "does not serve after 0 s"

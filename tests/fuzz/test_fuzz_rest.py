"""The gateway's HTTP front under hostile requests: an answer each, never 5xx but where it is meant, errors as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable

import pytest

from tests.fuzz.conftest import Effort
from tests.fuzz.exploring import Answer, Exploration
from tests.fuzz.http_client import HttpAnswer, HttpClient, HttpRequest
from tests.fuzz.rest_requests import OIP_BASES, OPENAI_BASES, Draft, RestCase, infer, rest_cases
from tests.interop.served import Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NO_HTTP = b"Invalid HTTP request received."
NOT_SERVED, NOT_LOADED = 501, 503


class Client:
    """Sends requests as they are to the gateway."""

    def __init__(self, address: str) -> None:
        self.http = HttpClient(address)

    async def ask(self, case: RestCase) -> Answer:
        request = case.request()
        answer = await self.http.ask(request)
        return Answer(str(answer.status), fault_of(answer))

    async def is_well(self) -> bool:
        """The next request is answered right."""
        draft = infer()
        answer = await self.http.ask(HttpRequest(draft.method, draft.path, body=json.dumps(draft.document).encode()))
        return answer.status == 200 and json.loads(answer.body)["outputs"][0]["data"] == [1, 2]


def fault_of(answer: HttpAnswer) -> str | None:
    """What is wrong with an answer, in words; None when nothing is."""
    if answer.status == 0:
        return "the connection was closed without an answer"
    is_spare_away = answer.status == NOT_LOADED and b"spare" in answer.body
    if answer.status >= 500 and answer.status != NOT_SERVED and not is_spare_away:
        return f"{answer.status} {answer.body[:500]!r}"
    if b"Traceback" in answer.body or b"internal error" in answer.body:
        return f"the answer tells of a failure inside: {answer.body[:500]!r}"
    if answer.status >= 400 and not _is_json_error(answer):
        return f"{answer.status} without a JSON error: {answer.body[:200]!r}"
    return None


def _is_json_error(answer: HttpAnswer) -> bool:
    # Packed, or the HTTP parser's own word for what is no HTTP.
    if "content-encoding" in answer.headers or answer.body == NO_HTTP:
        return True
    try:
        return "error" in json.loads(answer.body)
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("bases", "share"), [(OIP_BASES, 0.3), (OPENAI_BASES, 0.1)], ids=["inference protocol", "openai"]
)
def test_spoiled_requests_are_refused(
    bases: tuple[Callable[[], Draft], ...], share: float, unharmed: Served, runner: asyncio.Runner, effort: Effort
) -> None:
    async def connect() -> Client:
        return Client(unharmed.addresses("gateway")["http_address"])

    client = runner.run(connect())
    exploring = Exploration(client.ask, client.is_well, runner, effort.share(share), effort.seed)
    try:
        exploring.explore(rest_cases(bases))
    finally:
        runner.run(client.http.close())
        slowest = f"slowest {exploring.slowest_s:.2f} s: {exploring.slowest[:300]}"
        sys.stdout.write(f"{dict(exploring.outcomes)}; {slowest}\n")

    assert len(exploring.outcomes) > 2, f"the cases are all alike: {exploring.outcomes}"

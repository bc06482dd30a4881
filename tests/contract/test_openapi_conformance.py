"""What a running gateway answers is what its OpenAPI document says, for requests made from the document.

schemathesis makes them: right ones and wrong ones, within and around what the document allows. None may end in 500;
each status, content type, header and body must be one that the document has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import Case
from schemathesis.checks import CHECKS, load_all_checks

from gateway.openapi.document import build_document
from tests.contract.rest_mesh import rest_mesh_in_thread

# For each operation; more find more, at two milliseconds each.
NUM_EXAMPLES = 15
# "broken" is left out: a model whose load fails as a bug would is a 500.
MODELS = ("identity", "loose", "absent", "chat", "nobody")

load_all_checks()
CONFORMANCE = CHECKS.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rest_mesh_in_thread(tmp_path_factory.mktemp("mesh"), request_timeout_s=5) as url:
        yield url


schema = schemathesis.openapi.from_dict(build_document())


@schema.parametrize()
@hypothesis.settings(max_examples=NUM_EXAMPLES, deadline=None, derandomize=True)
def test_answers_are_what_the_document_says(case: Case, url: str) -> None:
    _name_a_model(case)

    answer = case.call(base_url=url, timeout=20)

    assert answer.status_code not in (500, 502), answer.text
    case.validate_response(answer, checks=CONFORMANCE)


def _name_a_model(case: Case) -> None:
    """Random names are of no model: every case takes one of those that there are, and of one that there is not."""
    if "model" in (case.path_parameters or {}):
        case.path_parameters["model"] = MODELS[_number_of(case) % len(MODELS)]
    if "version" in (case.path_parameters or {}) and _number_of(case) % 2:
        case.path_parameters["version"] = "1"
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = "chat"


def _number_of(case: Any) -> int:
    """A number that hangs on the case alone, so that a case that failed fails again."""
    return len(repr(case.body)) + len(repr(case.path_parameters))

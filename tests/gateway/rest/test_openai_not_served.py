"""Fields that are refused by name: unless their value asks for nothing."""

from __future__ import annotations

import pytest

from gateway.rest.openai_not_served import CHAT, TEXT, Table, refuse
from gateway.rest.openai_requests import ChatCompletionRequest, CompletionRequest
from mesh.errors import InvalidInput


@pytest.mark.parametrize("table", [CHAT, TEXT])
def test_every_field_is_refused_by_name_and_taken_when_it_asks_for_nothing(table: Table) -> None:
    for name, harmless in table.items():
        for value in (None, *harmless):
            refuse({name: value}, table)
        with pytest.raises(InvalidInput, match=f"'{name}' is not served") as raised:
            refuse({name: {"some": "thing"}}, table)
        assert raised.value.field == name


def test_what_is_served_is_not_refused() -> None:
    assert not set(CHAT) & set(ChatCompletionRequest.model_fields)
    assert not set(TEXT) & set(CompletionRequest.model_fields)

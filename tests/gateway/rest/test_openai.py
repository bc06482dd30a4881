"""The OpenAI routes over a real port."""

from tests.gateway.conftest import Door


async def test_chat(door: Door) -> None:
    answer = await door.http.post(
        "/v1/chat/completions", json={"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
    )

    assert answer.status_code == 200

"""Log-probabilities in the forms that clients expect; whole bodies with them are golden files."""

from __future__ import annotations

from gateway.rest.openai_logprobs import TextLogprobs, chat_logprobs, prompt_logprobs
from mesh.v1 import language_model_pb2 as lm


def token(token_id: int, text: str, logprob: float) -> lm.TokenLogprob:
    return lm.TokenLogprob(token_id=token_id, text=text, logprob=logprob, token_bytes=text.encode())


def position(chosen: lm.TokenLogprob, *top: lm.TokenLogprob) -> lm.PositionLogprobs:
    return lm.PositionLogprobs(chosen=chosen, top=top)


A, B, C = token(1, "a", -0.25), token(2, "b", -1.5), token(3, "é", -2.0)


def test_token_of_the_prompt_comes_first_and_has_its_rank_where_it_is_known() -> None:
    assert [list(entries or ()) for entries in prompt_logprobs([position(B, A, B, C)], 3)] == [[], ["2", "1", "3"]]
    (_, among), (_, beyond), (_, alone) = (
        prompt_logprobs([position(B, A, B)], 2),
        prompt_logprobs([position(C, A, B)], 2),
        prompt_logprobs([position(C)], 0),
    )
    assert [entry["rank"] for entry in among.values()] == [2, 1]
    assert [entry["rank"] for entry in beyond.values()] == [None, 1, 2]
    assert alone == {"3": {"logprob": -2.0, "rank": None, "decoded_token": "é"}}


def test_only_so_many_of_the_likeliest_are_shown_as_were_asked_for() -> None:
    assert list(prompt_logprobs([position(C, A, B)], 1)[1]) == ["3", "1"]
    lists = TextLogprobs(0, 1)
    lists.add([position(C, A, B)])
    assert lists.to_json()["top_logprobs"] == [{"a": -0.25}]


def test_prompt_of_one_token_has_no_log_probability() -> None:
    lists = TextLogprobs(0, 1)
    lists.add_prompt("a", [])

    assert prompt_logprobs([], 5) == [None]
    assert lists.to_json() == {
        "tokens": ["a"], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [0]
    }  # fmt: skip


def test_offsets_go_on_after_the_prompt() -> None:
    lists = TextLogprobs(0, 0)
    lists.add_prompt("éa", [position(A)])
    lists.add([position(B), position(C)])

    assert lists.to_json()["text_offset"] == [0, 1, 2, 3]
    assert lists.text_offset == 4


def test_chat_has_an_object_per_token() -> None:
    content = chat_logprobs([position(C, A)])["content"]

    assert content == [
        {"token": "é", "logprob": -2.0, "bytes": [195, 169],
         "top_logprobs": [{"token": "a", "logprob": -0.25, "bytes": [97]}]}
    ]  # fmt: skip

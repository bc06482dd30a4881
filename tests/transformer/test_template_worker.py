"""What the worker answers, asked in this process: hostile jobs are test_template_runner's."""

from __future__ import annotations

from transformer.template_worker import answer


def job(template: str, **variables: object) -> dict[str, object]:
    return {"template": template, "variables": [{"now_s": 0.0, **variables}]}


def test_blocks_are_trimmed_as_templates_expect() -> None:
    template = "a\n  {% if true %}\nb\n  {% endif %}\nc"

    assert answer(job(template), 100) == {"texts": ["a\nb\nc"]}


def test_json_is_not_escaped_for_html() -> None:
    assert answer(job("{{ x | tojson }}", x={"a": "<é>"}), 100) == {"texts": ['{"a": "<é>"}']}
    assert answer(job("{{ x | tojson(indent=1) }}", x=[1]), 100) == {"texts": ["[\n 1\n]"]}


def test_the_date_is_that_of_the_job() -> None:
    noon_1970 = 12 * 3600.0

    assert answer({"template": "{{ strftime_now('%Y') }}", "variables": [{"now_s": noon_1970}]}, 100) == {
        "texts": ["1970"]
    }


def test_generation_blocks_leave_their_text_and_keep_their_variables() -> None:
    template = "{% set x = 1 %}{% generation %}{% set x = 2 %}[{{ x }}]{% endgeneration %}{{ x }}"

    assert answer(job(template), 100) == {"texts": ["[2]1"]}


def test_output_is_bounded() -> None:
    assert answer(job("{{ 'x' * 100 }}"), 100) == {"texts": ["x" * 100]}
    reply = answer(job("{{ 'x' * 101 }}"), 100)
    assert reply["error"] == "fault"
    assert "more than 100 characters of output" in str(reply["message"])


def test_refusal_and_fault_are_told_apart() -> None:
    assert answer(job("{{ raise_exception('no') }}"), 100) == {"error": "refused", "message": "no"}
    assert answer(job("{{ missing.attribute }}"), 100)["error"] == "fault"


def test_long_messages_are_cut() -> None:
    assert len(str(answer(job("{{ raise_exception('x' * 9999) }}"), 100)["message"])) == 500

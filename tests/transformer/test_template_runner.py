"""Hostile and broken templates cost one error each; the pool goes on."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import Overloaded, Unavailable
from transformer.template_runner import TemplateFault, TemplateLimits, TemplateRefusal, TemplateRunnerPool

VARIABLES: list[dict[str, object]] = [{"now_s": 0.0, "name": "mesh"}]

HOSTILE = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "computes": "{{ 10 ** (10 ** 9) }}",
    "fills memory": "{{ 'x' * 10 ** 9 }}",
    "writes without end": "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "recurses": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "reaches for attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reaches for globals": "{{ raise_exception.__globals__['sys'].exit() }}",
    "does not parse": "{% for %}",
    "nests too deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "includes a file": "{% include '/etc/passwd' %}",
    "divides by zero": "{{ 1 / 0 }}",
    "formats widely": "{{ '%1000000000d' % 1 }}",
    "changes its input": "{{ items.append(1) }}",
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_template_is_a_fault_and_the_next_job_succeeds(
    runner: TemplateRunnerPool, template: str
) -> None:
    variables: list[dict[str, object]] = [{"now_s": 0.0, "items": []}]

    with pytest.raises(TemplateFault, match="the chat template of 'm' "):
        await runner.run("chat template of 'm'", template, variables)

    assert await runner.run("template", "hello {{ name }}", VARIABLES) == ["hello mesh"]


async def test_a_template_that_never_ends_is_named_with_its_limit(runner: TemplateRunnerPool) -> None:
    with pytest.raises(TemplateFault, match=r"does not finish within 0\.5 s of computing"):
        await runner.run("template", HOSTILE["loops"], VARIABLES)


async def test_raise_exception_is_a_refusal_with_the_templates_own_words(runner: TemplateRunnerPool) -> None:
    with pytest.raises(TemplateRefusal, match="the template does not take these messages: only cats"):
        await runner.run("template", "{{ raise_exception('only cats') }}", VARIABLES)


async def test_one_job_renders_many_sets_of_variables(runner: TemplateRunnerPool) -> None:
    variables = [{"now_s": 0.0, "name": name} for name in "abc"]

    assert await runner.run("template", "{{ name }}!", variables) == ["a!", "b!", "c!"]


async def test_a_caller_that_gives_up_costs_no_worker(runner: TemplateRunnerPool) -> None:
    await runner.run("template", "warm", VARIABLES)
    waiting = asyncio.create_task(runner.run("template", "{{ 'x' * 1000 }}", VARIABLES))
    await asyncio.sleep(0)
    waiting.cancel()

    assert await runner.run("template", "{{ name }}", VARIABLES) == ["mesh"]


async def test_a_full_queue_refuses_at_once() -> None:
    pool = TemplateRunnerPool(TemplateLimits(), max_waiting=1)  # no worker takes jobs before start()
    first = asyncio.create_task(pool.run("template", "a", VARIABLES))
    await asyncio.sleep(0)

    with pytest.raises(Overloaded, match="1 prompts wait to be rendered"):
        await pool.run("template", "b", VARIABLES)
    await pool.close()
    with pytest.raises(Unavailable, match="shutting down"):
        await first


async def test_closing_while_a_template_runs_refuses_it_and_leaves_no_process(runner: TemplateRunnerPool) -> None:
    await runner.run("template", "warm", VARIABLES)
    running = asyncio.create_task(runner.run("template", HOSTILE["loops"], VARIABLES))
    await asyncio.sleep(0)

    await runner.close()

    with pytest.raises((Unavailable, TemplateFault)):
        await running

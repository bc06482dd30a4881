"""Requests of a workload come as it says."""

from __future__ import annotations

from bench.llm.prompts import PromptWriter
from bench.llm.workloads import Workload

WORDS = [f"w{i}" for i in range(100)]


def test_lengths_come_in_turn_and_every_so_many_th_request_goes_away() -> None:
    workload = Workload("mixed", 2, 6, (3, 7), (10, 20, 30), cancel_every=3)

    requests = workload.requests(PromptWriter(WORDS, "seed"))

    assert [request.prompt_tokens for request in requests] == [3, 7, 3, 7, 3, 7]
    assert [request.max_tokens for request in requests] == [10, 20, 30, 10, 20, 30]
    assert [request.cancel_after_parts > 0 for request in requests] == [False, False, True, False, False, True]


def test_a_scaled_workload_has_a_share_of_its_requests_but_one_at_least() -> None:
    workload = Workload("chat", 8, 40, (30,), (64,))

    assert [workload.scaled(share).num_requests for share in (1.0, 0.5, 0.001)] == [40, 20, 1]

"""The oracle: a GGUF file as transformers loads and runs it, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def transformers_model(path: Path) -> Any:  # transformers' models have no useful types
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


@torch.inference_mode()
def greedy_choices(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
    """What `model` chooses at temperature 0 after the prompt, after the first token of `answer`, after its second, …

    If that is `answer` itself, then token by token `model` would have generated the same. One pass tells it, where
    generation takes as many as there are tokens.
    """
    logits = model(torch.tensor([[*prompt, *answer[:-1]]])).logits[0, len(prompt) - 1 :]
    choices: list[int] = logits.argmax(dim=-1).tolist()
    return choices


@torch.inference_mode()
def transformers_greedy(path: Path, prompts: Sequence[Sequence[int]], num_tokens: int, end_id: int) -> list[list[int]]:
    model = transformers_model(path)
    outputs = []
    for prompt in prompts:
        whole = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=end_id,
            pad_token_id=end_id,
        )
        outputs.append(whole[0, len(prompt) :].tolist())
    return outputs


QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain photosynthesis to a child.",
    "List 5 prime numbers.",
    "Translate 'good morning' into Spanish.",
    "Why is the sky blue?",
    "Write a Python function that reverses a string.",
    "Who wrote Hamlet?",
    "What is 12 times 7?",
    "Give me a recipe for pancakes.",
    "Summarise the plot of Cinderella in two sentences.",
    "What causes tides?",
    "Name three programming languages and one use of each.",
    "How do vaccines work?",
    "Tell me a joke about computers.",
    "What is the difference between a list and a tuple?",
    "Write an email asking for a day off.",
    "When did the Roman Empire fall?",
    "How far is the Moon from the Earth?",
    "Describe a sunset in the mountains with many adjectives.",
]

"""What a token costs on its way to text: `python -m bench.detokenizer MODEL`. Prints microseconds, asserts nothing.

MODEL is a GGUF file or a model folder, of which only the tokenizer is read.
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter

from predictor.llm.detokenizer import Detokenizer
from predictor.llm.tokenizer_file import read_tokenizer

NUM_RUNS = 5
TEXT = "def f(x):\n    return x ** 2  # it's 1 of 12\nThe quick brown fox jumps. Ein häßlicher Fußgängerüberweg. "
TEXT += "日本語のテキスト и немного русского 👩\u200d👩\u200d👧 e\u0301\n"
STOPS = ((), ("\n\nUser:",), tuple(f"</end{i}>" for i in range(4)), tuple(f"</end{i}>" for i in range(16)))


def main() -> None:
    tokenizer = read_tokenizer(Path(sys.argv[1]))
    token_ids = tokenizer.encode(TEXT * 1000)
    print(f"{len(token_ids)} tokens of {len(TEXT) * 1000} characters, {NUM_RUNS} runs, microseconds a token")
    for stop in STOPS:
        costs_us = []
        for _ in range(NUM_RUNS):
            detokenizer = Detokenizer(tokenizer.id_to_bytes, stop)
            start = perf_counter()
            for token_id in token_ids:
                detokenizer.push(token_id)
            costs_us.append((perf_counter() - start) / len(token_ids) * 1e6)
        print(f"{len(stop):2} stop strings: " + ", ".join(f"{cost:.2f}" for cost in costs_us))


if __name__ == "__main__":
    main()

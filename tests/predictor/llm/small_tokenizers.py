"""A tokenizer of bytes and a few merges, and texts that tell tokenizers apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from predictor.llm.gguf_tokenizer import TokenizerSpec, build_tokenizer
from predictor.llm.tokenizer import Tokenizer
from tests.predictor.llm.gguf_files import MERGES, SPECIAL_TOKENS, vocabulary

TEXTS = [
    "",
    "Hello, world!",
    " leading and trailing ",
    "The year 2024 had 366 days; 3.14159 is pi.",
    "tabs\tand\n\nnewlines\r\n",
    "def f(x):\n    return x ** 2  # square\n",
    "Ein häßlicher Fußgängerüberweg",
    "日本語のテキスト и немного русского",
    "emoji 😀👩‍👩‍👧 and e\u0301 combining",
    "<|im_start|>user\nWhat is 12+34?<|im_end|>\n<|im_start|>assistant\n",
    "don't won't I'll we've",
    "a" * 300,
    "\x00\x01 control",
]


def small_spec(**changes: Any) -> TokenizerSpec:  # Any: fields of the spec
    tokens = vocabulary()
    spec = TokenizerSpec(
        tokens=tuple(tokens),
        token_types=(3,) * len(SPECIAL_TOKENS) + (1,) * (len(tokens) - len(SPECIAL_TOKENS)),
        merges=MERGES,
        pre="smollm",
        bos_id=1,
        eos_id=2,
        add_bos=False,
        chat_template=None,
    )
    return replace(spec, **changes)


def small_tokenizer(**changes: Any) -> Tokenizer:  # as above
    return build_tokenizer(small_spec(**changes))

"""Hashes of prompts: equal exactly as far as the text is, few, and the same everywhere."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.balancing.prefix import BLOCK_ENDS, BYTES_PER_TOKEN, MAX_BLOCKS, hash_text, hash_token_ids

TEXT = "".join(random.Random(3).choices("abcdefgh ", k=8000))


def full_blocks(num_bytes: int) -> int:
    return sum(end * BYTES_PER_TOKEN <= num_bytes for end in BLOCK_ENDS)


@settings(deadline=None)
@given(common=st.integers(0, 6000), tail=st.text(max_size=300), other=st.text(max_size=300))
def test_texts_share_as_many_hashes_as_full_blocks(common: int, tail: str, other: str) -> None:
    one, two = hash_text([TEXT[:common], "1", tail]), hash_text([TEXT[:common], "2", other])
    shared = [a == b for a, b in zip(one, two, strict=False)]

    assert sum(shared) == min(full_blocks(common), len(shared))
    assert shared == sorted(shared, reverse=True)


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 3000), max_size=5).map(sorted))
def test_where_a_text_is_cut_into_parts_does_not_matter(cuts: list[int]) -> None:
    ends = [*cuts, 3000]
    parts = [TEXT[start:end] for start, end in zip([0, *cuts], ends, strict=True)]

    assert hash_text(parts) == hash_text([TEXT[:3000]])


def test_other_salt_shares_nothing() -> None:
    assert not set(hash_text([TEXT], "tenant a")) & set(hash_text([TEXT], "tenant b"))


def test_a_prompt_of_any_length_has_few_blocks() -> None:
    assert len(hash_text(["x" * 16_000])) == 25
    assert len(hash_text(["x" * 50_000_000])) == MAX_BLOCKS
    assert hash_text(["x" * 255]) == []
    # What two prompts share is known to an eighth: no block is longer than that of what stands before it.
    assert all(end - before <= max(64, before / 8) for before, end in pairwise(BLOCK_ENDS))


@settings(deadline=None)
@given(text=st.text(st.characters(), max_size=600), salt=st.text(st.characters(), max_size=100))
def test_no_text_is_refused(text: str, salt: str) -> None:
    assert all(0 <= value < 2**64 for value in hash_text([text], salt))


def test_tokens_are_hashed_alike() -> None:
    tokens = list(range(1000))

    assert len(hash_token_ids(tokens)) == full_blocks(1000 * BYTES_PER_TOKEN)
    assert hash_token_ids(tokens[:500] + [7] * 500)[:7] == hash_token_ids(tokens)[:7]
    assert hash_token_ids(tokens, "a") != hash_token_ids(tokens)


def test_hashes_are_the_same_in_another_process() -> None:
    program = "from mesh.balancing.prefix import hash_text; print(hash_text(['a' * 600], 'v1'))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert printed.stdout.strip() == str(hash_text(["a" * 600], "v1"))

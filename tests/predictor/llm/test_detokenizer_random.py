"""10,000 random strings through real tokenizers: the pieces of a stream join to what decoding the whole gives.

"The whole" is said twice: by our `Tokenizer.decode`, and by the `tokenizers` library's decoder of the same vocabulary.
The library differs in two things, both of SentencePiece and both tested here. It takes the space away that Llama's
encoder puts in front of a text; ids of a stream may start anywhere, so ours stays. And where bytes from byte tokens are
no UTF-8, it gives up the whole run of them, also what in it is a character; ours gives up the bytes that are wrong, as
Python's `errors="replace"` does and as it must, since what is out already cannot be taken back.

The cost of a token is in docs/log.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import tokenizers

from predictor.llm.detokenizer import Detokenizer
from predictor.llm.json_tokenizer import read_tokenizer_folder
from predictor.llm.tokenizer import Tokenizer
from predictor.llm.tokenizer_file import read_tokenizer
from tests.predictor.llm.model_folders import sentencepiece_encoder, write_tokenizer
from tests.predictor.llm.random_text import RandomTokens

NUM_STRINGS = 10_000
REPLACEMENT = "\ufffd"


def streamed(tokenizer: Tokenizer, ids: list[int], first: int = 0) -> list[str]:
    """The pieces that come out for ids[first:], and what is held back at the end, after all of `ids` went in."""
    detokenizer = Detokenizer(tokenizer.id_to_bytes)
    pieces = [detokenizer.push(token_id) for token_id in ids]
    return [*pieces[first:], detokenizer.flush()]


def check_strings(tokenizer: Tokenizer, decode_whole: Callable[[list[int]], str]) -> int:
    """Hold all strings against both references; returns how many tokens there were."""
    draw_tokens, num_tokens = RandomTokens(tokenizer), 0
    for seed in range(NUM_STRINGS):
        rng = Random(seed)
        ids = draw_tokens.draw(rng)
        num_tokens += len(ids)

        pieces = streamed(tokenizer, ids)

        whole = "".join(pieces)
        assert whole == tokenizer.decode(ids), f"seed {seed}: {ids}"
        assert whole == decode_whole(ids), f"seed {seed}: {ids}"
        # In groups, as steps deliver them: each group is what its tokens add to those before, whatever the cuts.
        cut = rng.randint(0, len(ids))
        assert "".join(streamed(tokenizer, ids[:cut])) == tokenizer.decode(ids[:cut]), f"seed {seed}: {ids[:cut]}"
        assert streamed(tokenizer, ids, cut) == pieces[cut:], f"seed {seed}"
        assert REPLACEMENT in whole or not any(REPLACEMENT in piece for piece in pieces)
    return num_tokens


def test_byte_level_streams_equal_the_whole(smollm2_gguf: Path) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name).backend_tokenizer

    num_tokens = check_strings(read_tokenizer(smollm2_gguf), reference.decode)

    assert num_tokens > 20 * NUM_STRINGS


def test_sentencepiece_streams_equal_the_whole(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, sentencepiece_encoder())
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    whole = WholeDecoder(reference)
    # Llama's decoder ends with a step that takes one space from the front.
    reference.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )

    check_strings(read_tokenizer_folder(tmp_path), whole)

    assert whole.num_by_library > NUM_STRINGS / 2
    assert whole.num_by_hand > NUM_STRINGS / 10


@pytest.mark.slow  # transformers takes 16 s to build this tokenizer
def test_streams_of_a_real_sentencepiece_vocabulary_equal_the_whole(gemma3_metadata_gguf: Path) -> None:
    from transformers import AutoTokenizer

    file = gemma3_metadata_gguf
    whole = WholeDecoder(AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).backend_tokenizer)

    check_strings(read_tokenizer(file), whole)

    assert whole.num_by_library > NUM_STRINGS / 2
    assert whole.num_by_hand > NUM_STRINGS / 10


class WholeDecoder:
    """The text of ids by the `tokenizers` library, where all runs of byte tokens in it are UTF-8; else put together.

    By hand: the bytes of each token as the library spells it, joined and decoded as Python does.
    """

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self._library = library
        self._special = {i for i, token in library.get_added_tokens_decoder().items() if token.special}
        self.num_by_library = 0
        self.num_by_hand = 0

    def __call__(self, ids: list[int]) -> str:
        runs: list[bytearray] = []
        text = bytearray()
        was_byte = False
        for token_id in ids:
            if token_id in self._special:
                continue
            token = self._library.id_to_token(token_id)
            assert token is not None
            if is_byte := token.startswith("<0x") and len(token) == 6:
                data = bytes([int(token[3:5], 16)])
                if not was_byte:
                    runs.append(bytearray())
                runs[-1] += data
            else:
                data = token.replace("▁", " ").encode()
            text += data
            was_byte = is_byte
        if all(is_utf8(run) for run in runs):
            self.num_by_library += 1
            return str(self._library.decode(ids))
        self.num_by_hand += 1
        return text.decode("utf-8", errors="replace")


def is_utf8(data: bytearray) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_where_the_library_differs(tmp_path: Path) -> None:
    encoder = sentencepiece_encoder()
    write_tokenizer(tmp_path, encoder)
    tokenizer = read_tokenizer_folder(tmp_path)
    a, wrong, the = (encoder.token_to_id(token) for token in ("<0x41>", "<0xFF>", "▁the"))

    assert (encoder.decode([a, wrong, the]), tokenizer.decode([a, wrong, the])) == ("\ufffd\ufffd the", "A\ufffd the")
    assert (encoder.decode([the]), tokenizer.decode([the])) == ("the", " the")

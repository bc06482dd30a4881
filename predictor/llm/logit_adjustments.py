"""What changes the logits of a row before a token is chosen: bias, penalties, bans, and the mask of a guide.

All of it is arithmetic on one row at a time, from what the row's `Draw` says: no neighbour and no step before shows in
it. The order is vLLM's: bias, repetition penalty, frequency and presence penalty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from predictor.llm.step import Draw

# Letters: V vocabulary.


def adjust(logits: Tensor, draw: Draw) -> Tensor:
    """The logits that `draw` chooses from; float32 [V] → itself when nothing changes, else a new row.

    Tokens that cannot be chosen are -inf. At least one is not: when every token that the guide allows is banned, the
    bans give way.
    """
    row = _add_bias(logits, draw)
    row = _penalize(row, draw)
    if draw.allowed is not None:
        row = row.masked_fill(~_unpack(draw.allowed, len(logits), logits.device), -torch.inf)
    if draw.banned:
        banned = row.index_fill(0, _ids(draw.banned, row), -torch.inf)
        row = row if bool(banned.isneginf().all()) else banned
    return row


def _add_bias(logits: Tensor, draw: Draw) -> Tensor:
    if not draw.params.logit_bias:
        return logits
    token_ids, biases = zip(*draw.params.logit_bias, strict=True)
    return logits.index_add(0, _ids(token_ids, logits), logits.new_tensor(biases))


def _penalize(logits: Tensor, draw: Draw) -> Tensor:
    params = draw.params
    if not params.has_penalties:
        return logits
    row = logits.clone()
    if params.repetition_penalty != 1.0:
        seen = _ids(sorted({*draw.prompt_token_ids, *draw.output_token_ids}), row)
        values = row[seen]
        row[seen] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    counts = Counter(draw.output_token_ids)
    if counts and (params.frequency_penalty or params.presence_penalty):
        row[_ids(counts, row)] -= (
            row.new_tensor(list(counts.values())) * params.frequency_penalty + params.presence_penalty
        )
    return row


def _ids(token_ids: Iterable[int], like: Tensor) -> Tensor:
    return torch.tensor(list(token_ids), dtype=torch.int64, device=like.device)


def _unpack(bitmap: bytes, vocab_size: int, device: torch.device) -> Tensor:
    """Bool [V]; tokens beyond the bitmap are False."""
    # Of no bytes at all numpy would unpack whatever lies in memory.
    bits = np.unpackbits(np.frombuffer(bitmap or b"\0", np.uint8), count=vocab_size, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_)).to(device)

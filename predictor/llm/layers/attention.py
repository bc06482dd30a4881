"""Attention over a paged KV cache (PagedAttention, Kwon et al., 2023), in plain PyTorch.

A layer's cache is one tensor of blocks; a sequence's block table says which blocks are its own, in order. A step writes
the new keys and values to their slots, then every query reads through its sequence's table. Sequences that add one
token (decode) are computed together; longer chunks (prefill) in tiles of queries. Knows no scheduler and no model.

Every query reads its keys padded to a length that its position alone decides, and masked. So on the CPU a token's bits
depend neither on the other sequences of the step nor on how its own sequence was cut into chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Letters: N tokens in the step, B sequences in a group, T padded keys, H query heads, K KV heads, D head_dim.

# Queries computed together in prefill. Keys after a tile are never read, so smaller tiles waste less of the causal
# triangle, and larger ones have less overhead; 64 is at the flat bottom between.
QUERY_TILE = 64


class KVCache:
    """The memory of all KV blocks: per layer one tensor [num_blocks, block_size, 2 * K, D], keys before values."""

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_blocks, block_size, 2 * num_kv_heads, head_dim)
        # Zeros, not empty: a masked slot is multiplied by zero, and garbage that happens to be NaN would survive that.
        self.layers = [_zeros(shape, dtype, device) for _ in range(num_layers)]
        self.block_size = block_size


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy asks for zeroed memory where torch.zeros would write it: a page of the cache takes memory, and its part of
    # the start-up time, only when a block in it is first used.
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)


@dataclass(frozen=True, slots=True)
class QueryGroup:
    """Queries that read the cache with one call.

    rows: the queries' place in the flat batch. Decode: one query for each of B sequences; prefill: a tile of one.
    block_ids: int64 [B * padded blocks], the block tables one after another; prefill: B = 1.
    mask: what is added to the scores, 0 or -inf; decode [B, 1, 1, T], prefill [padded queries, T].
    """

    rows: slice
    block_ids: Tensor
    mask: Tensor
    is_decode: bool


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """Where the step's tokens are written (slots: int64 [N]) and what its queries read, group by group, in order."""

    slots: Tensor
    groups: tuple[QueryGroup, ...]


def paged_attention(q: Tensor, kv: Tensor, layer_cache: Tensor, metadata: AttentionMetadata) -> Tensor:
    """Write kv [N, 2 * K, D] to its slots, then attend with q [N, H, D]; returns [N, H * D]."""
    layer_cache.view(-1, *kv.shape[1:]).index_copy_(0, metadata.slots, kv)
    outputs = [
        _attend_decode(q[group.rows], layer_cache, group)
        if group.is_decode
        else _attend_prefill(q[group.rows], layer_cache, group)
        for group in metadata.groups
    ]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend_decode(q: Tensor, layer_cache: Tensor, group: QueryGroup) -> Tensor:
    num_sequences, num_heads, head_dim = q.shape
    keys, values = _read_blocks(layer_cache, group.block_ids, num_sequences)
    # The query heads that share a KV head stand as rows of one small matrix: K and V are read once, unexpanded.
    grouped = q.view(num_sequences, keys.shape[1], -1, head_dim)  # [B, K, H / K, D]
    num_rows = grouped.shape[2]
    grouped = _pad_rows(grouped, padded_rows(num_rows))
    output = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=group.mask)
    return output[:, :, :num_rows].reshape(num_sequences, num_heads * head_dim)


def _attend_prefill(q: Tensor, layer_cache: Tensor, group: QueryGroup) -> Tensor:
    num_queries, num_heads, head_dim = q.shape
    keys, values = _read_blocks(layer_cache, group.block_ids, 1)
    queries = _pad_rows(q.transpose(0, 1).unsqueeze(0), group.mask.shape[0])  # [1, H, queries, D]
    output = F.scaled_dot_product_attention(queries, keys, values, attn_mask=group.mask, enable_gqa=True)
    return output[0, :, :num_queries].transpose(0, 1).reshape(num_queries, num_heads * head_dim)


def padded_rows(num_rows: int) -> int:
    """Rows to compute so that each one's bits are its own.

    torch's CPU kernel takes queries in blocks of 32, and multiplies a block of one, two or three rows by other
    instructions, which round differently, than a larger one; which of them differ hangs on the CPU.
    """
    return -(-num_rows // 4) * 4


def _pad_rows(q: Tensor, num_rows: int) -> Tensor:
    extra = num_rows - q.shape[2]
    return F.pad(q, (0, 0, 0, extra)) if extra else q


def _read_blocks(layer_cache: Tensor, block_ids: Tensor, num_sequences: int) -> tuple[Tensor, Tensor]:
    """Keys and values of the sequences' blocks; [B, K, T, D] each, views of one gathered copy."""
    _, _, kv_heads, head_dim = layer_cache.shape
    gathered = layer_cache.index_select(0, block_ids).view(num_sequences, -1, kv_heads, head_dim).transpose(1, 2)
    return gathered[:, : kv_heads // 2], gathered[:, kv_heads // 2 :]


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens start_position … start_position + num_tokens - 1 of a sequence, and its block table."""

    start_position: int
    num_tokens: int
    block_table: Sequence[int]


def plan_attention(
    spans: Sequence[Span], block_size: int, dtype: torch.dtype, device: torch.device
) -> AttentionMetadata:
    """The metadata for spans whose tokens stand side by side. Sort spans by `span_order` to make few groups."""
    slots = [slot for span in spans for slot in _slots(span, block_size)]
    groups: list[QueryGroup] = []
    row = 0
    index = 0
    while index < len(spans):
        span = spans[index]
        if span.num_tokens > 1:
            groups.extend(_prefill_groups(span, row, block_size, dtype))
            row += span.num_tokens
            index += 1
            continue
        end = index
        while end < len(spans) and span_order(spans[end], block_size) == span_order(span, block_size):
            end += 1
        groups.append(_decode_group(spans[index:end], row, block_size, dtype))
        row += end - index
        index = end
    on_device = tuple(
        QueryGroup(group.rows, group.block_ids.to(device), group.mask.to(device), group.is_decode) for group in groups
    )
    return AttentionMetadata(torch.tensor(slots, device=device), on_device)


def span_order(span: Span, block_size: int) -> int:
    """Sort key: decodes first, by the padded length of their context, which is what a group has in common."""
    if span.num_tokens > 1:
        return 1 << 62
    return padded_blocks(span.start_position, block_size)


def padded_blocks(position: int, block_size: int) -> int:
    """Blocks that the query at `position` reads: the same for all positions of a tile.

    Up to eight tiles each tile has a length of its own; from there on lengths grow in steps of an eighth to a
    sixteenth, so that sequences of many lengths still meet in one group.
    """
    num_tiles = position // QUERY_TILE + 1
    step = 1 << max(0, (num_tiles - 1).bit_length() - 3)
    padded_tokens = -(-num_tiles // step) * step * QUERY_TILE
    return -(-padded_tokens // block_size)


def _slots(span: Span, block_size: int) -> Sequence[int]:
    positions = range(span.start_position, span.start_position + span.num_tokens)
    return [span.block_table[p // block_size] * block_size + p % block_size for p in positions]


def _padded_table(span: Span, last_position: int, block_size: int) -> list[int]:
    """The blocks up to `last_position`, padded with the last of them: never with a stranger's block."""
    table = list(span.block_table[: last_position // block_size + 1])
    return table + table[-1:] * (padded_blocks(last_position, block_size) - len(table))


def _decode_group(spans: Sequence[Span], row: int, block_size: int, dtype: torch.dtype) -> QueryGroup:
    tables = [_padded_table(span, span.start_position, block_size) for span in spans]
    positions = torch.tensor([span.start_position for span in spans]).view(-1, 1, 1, 1)
    mask = _causal_mask(positions, len(tables[0]) * block_size, dtype)
    return QueryGroup(slice(row, row + len(spans)), torch.tensor(tables).flatten(), mask, is_decode=True)


def _prefill_groups(span: Span, row: int, block_size: int, dtype: torch.dtype) -> list[QueryGroup]:
    groups = []
    start, end = span.start_position, span.start_position + span.num_tokens
    while start < end:
        # Tiles lie at fixed positions of the sequence, not of the chunk: a query reads as much in any chunk.
        tile_end = min((start // QUERY_TILE + 1) * QUERY_TILE, end)
        table = _padded_table(span, tile_end - 1, block_size)
        positions = torch.arange(start, start + padded_rows(tile_end - start)).view(-1, 1)
        mask = _causal_mask(positions, len(table) * block_size, dtype)
        rows = slice(row, row + tile_end - start)
        groups.append(QueryGroup(rows, torch.tensor(table), mask, is_decode=False))
        row, start = rows.stop, tile_end
    return groups


def _causal_mask(query_positions: Tensor, num_keys: int, dtype: torch.dtype) -> Tensor:
    """0 where a key is not after its query, -inf elsewhere; [..., num_keys]."""
    hidden = torch.arange(num_keys) > query_positions
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)

"""The memory of a Zipformer layer on CPUs: what its steps need, and the shapes they use it in.

Shapes: N sequences of L positions, M = N * L tokens, C channels, H heads, D channels of a head.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .buffers import Buffer, Plan, Scratch
from .fold import Attention

BLOCK_FLOATS = 260_000  # attention scores computed at a time: 1 MB, the second-level cache

STEPS = (
    "scores",
    "feed forward 1",
    "gated attention",
    "attention 1",
    "convolution 1",
    "feed forward 2",
    "bypass",
    "attention 2",
    "convolution 2",
    "feed forward 3",
    "norm",
)


class Sizes(NamedTuple):
    """What the memory of a layer depends on, besides its input's shape."""

    channels: int
    heads: int
    query: int  # these three over all heads
    positional: int
    value: int
    gated: int
    hidden: tuple[int, ...]  # of each feed-forward module

    def block(self, n: int, length: int) -> int:
        """How many queries' scores are computed at a time."""
        return max(1, min(length, BLOCK_FLOATS // (self.heads * n * length)))


@functools.lru_cache(256)
def plan(sizes: Sizes, n: int, length: int) -> Plan:
    """The memory of a slice of n sequences of that length."""
    tokens, heads, channels = n * length, sizes.heads, sizes.channels
    block = sizes.block(n, length)
    buffers = [
        Buffer("origin", (tokens, channels), "scores", "bypass"),  # the layer's input
        Buffer("tokens", (tokens, channels), "scores", "norm"),
        Buffer("weights", (n, heads, length, length), "scores", "attention 2"),
        Buffer("norms", (n, heads, length), "scores", "norm"),
        Buffer("projected", (tokens, 2 * sizes.query + sizes.positional), "scores"),
        Buffer("query key", (2, n, heads, length, sizes.query // heads), "scores"),
        Buffer("positional query", (heads, n, block, sizes.positional // heads), "scores"),
        Buffer("relative", (heads, n * block, length + block - 1), "scores"),
        Buffer("centred", (tokens, channels), "norm"),
    ]
    if block < length:  # else they are where the weights will be
        buffers.append(Buffer("scores", (n, heads, block, length), "scores"))
    for i, hidden in enumerate(sizes.hidden, 1):
        for name in "hidden", "activated":
            step = f"feed forward {i}"
            buffers.append(Buffer(f"{step} {name}", (tokens, hidden), step))
    for name in "gate", "value", "attended":
        buffers.append(Buffer(f"gated attention {name}", (tokens, sizes.gated), "gated attention"))
    for step in "attention 1", "attention 2":
        for name in "value", "attended":
            buffers.append(Buffer(f"{step} {name}", (n, sizes.value, length), step))
    for step in "convolution 1", "convolution 2":
        for name in "value", "gate", "activated":
            buffers.append(Buffer(f"{step} {name}", (tokens, channels), step))
    return Plan(STEPS, buffers)


class FeedForwardViews(NamedTuple):
    hidden: Tensor  # (M, hidden)
    activated: Tensor  # (M, hidden)


class GatedViews(NamedTuple):
    gate: Tensor  # (M, hidden)
    value: Tensor  # (M, hidden)
    value_of_sequences: Tensor  # (N, L, hidden)
    attended: Tensor  # (M, hidden)
    attended_of_sequences: Tensor  # (N, L, hidden)


class AttentionViews(NamedTuple):
    value: Tensor  # (N, HD, L)
    value_of_heads: Tensor  # (NH, D, L)
    attended_of_heads: Tensor  # (NH, D, L)
    attended_transposed: Tensor  # (N, L, HD)
    value_weight: Tensor  # (N, HD, C)
    out_weight: Tensor  # (N, HD, C)


class ConvolutionViews(NamedTuple):
    value: Tensor  # (M, C)
    gate: Tensor  # (M, C)
    image: Tensor  # value as (1, C, N, L), channels last in memory
    activated: Tensor  # (M, C)
    activated_image: Tensor  # (1, N, L, C)


class BlockViews(NamedTuple):
    """Some queries of all heads and sequences."""

    pos_query_in: Tensor  # (H, N, queries, D)
    pos_query: Tensor  # the same, contiguous
    pos_query_rows: Tensor  # (H, N * queries, D)
    table: Tensor  # (H, D, offsets)
    relative: Tensor  # (H, N * queries, offsets), scores of the offsets
    shifted: Tensor  # (N, H, queries, L), the same of each key
    query: Tensor  # (NH, queries, D)
    scores: Tensor  # (N, H, queries, L)
    scores_of_heads: Tensor  # (NH, queries, L)
    out: Tensor  # (N, H, queries, L)
    sums: Tensor  # (N, H, queries)


class Views:
    """The memory of a slice of N sequences of L positions, in the shapes that a layer's operations use."""

    def __init__(
        self,
        sizes: Sizes,
        attentions: Sequence[Attention],
        table: Tensor,  # the layer's of relative positions, (H, D, 2L-1)
        n: int,
        length: int,
        scratch: Scratch,
    ):
        self.buffers = buffers = scratch.planned(plan(sizes, n, length))
        self.origin, self.tokens, self.centred = (buffers[x] for x in ("origin", "tokens", "centred"))
        self.origin_of_sequences, self.tokens_of_sequences = (
            x.view(n, length, -1) for x in (self.origin, self.tokens)
        )
        self.tokens_transposed = self.tokens_of_sequences.transpose(1, 2)
        self.feed_forwards = [
            FeedForwardViews(buffers[f"feed forward {i} hidden"], buffers[f"feed forward {i} activated"])
            for i in (1, 2, 3)
        ]
        gate, value, attended = (buffers[f"gated attention {x}"] for x in ("gate", "value", "attended"))
        self.gated = GatedViews(
            gate, value, value.view(n, length, -1), attended, attended.view(n, length, -1)
        )
        self.attentions = [self._attention(i, folded, n) for i, folded in enumerate(attentions, 1)]
        self.convolutions = [self._convolution(i, n) for i in (1, 2)]

        weights, self.norms = buffers["weights"], buffers["norms"]
        self.first_weights, self.norms_of_first = weights[:, 0], self.norms[:, 0].unsqueeze(-1)
        self.weights_transposed = weights.flatten(0, 1).transpose(1, 2)
        self.norms_of_columns = self.norms.view(n * sizes.heads, 1, length)
        self.projected, self.query_key = buffers["projected"], buffers["query key"]
        both, pos_query = self.projected.view(n, length, -1).tensor_split([2 * sizes.query], dim=-1)
        self.query_key_in = both.view(n, length, 2, sizes.heads, -1).permute(2, 0, 3, 1, 4)
        query, key = self.query_key.flatten(1, 2)
        self.key = key.transpose(1, 2)
        pos_query = pos_query.view(n, length, sizes.heads, -1).permute(2, 0, 1, 3)
        block = sizes.block(n, length)
        self.blocks = [
            self._block(query, pos_query, table, start, min(start + block, length))
            for start in range(0, length, block)
        ]

    def _attention(self, i: int, folded: Attention, n: int) -> AttentionViews:
        value, attended = (self.buffers[f"attention {i} {name}"] for name in ("value", "attended"))
        heads, length = self.buffers["weights"].shape[1:3]
        return AttentionViews(
            value,
            value_of_heads=value.view(n * heads, -1, length),
            attended_of_heads=attended.view(n * heads, -1, length),
            attended_transposed=attended.transpose(1, 2),
            value_weight=folded.value.expand(n, -1, -1),
            out_weight=folded.out.expand(n, -1, -1),
        )

    def _convolution(self, i: int, n: int) -> ConvolutionViews:
        names = "value", "gate", "activated"
        value, gate, activated = (self.buffers[f"convolution {i} {name}"] for name in names)
        value_image, activated_image = (x.view(1, n, -1, x.shape[-1]) for x in (value, activated))
        return ConvolutionViews(value, gate, value_image.permute(0, 3, 1, 2), activated, activated_image)

    def _block(self, query: Tensor, pos_query: Tensor, table: Tensor, start: int, stop: int) -> BlockViews:
        """Queries from start to stop.

        Query i needs the offsets j - i of all keys j: those of a block together the offsets from 1 - stop
        to length - 1 - start. In the product with these, what query i needs begins one number earlier
        than that of the query before: a view with a stride of one less than the width.
        """
        weights = self.buffers["weights"]
        n, heads, length, _ = weights.shape
        rows, width = stop - start, length + stop - start - 1
        copied = _start_of(self.buffers["positional query"], heads, n, rows, pos_query.shape[-1])
        relative = _start_of(self.buffers["relative"], heads, n * rows, width)
        out = weights[:, :, start:stop]
        whole = rows == length
        scores = out if whole else _start_of(self.buffers["scores"], n, heads, rows, length)
        return BlockViews(
            pos_query_in=pos_query[:, :, start:stop],
            pos_query=copied,
            pos_query_rows=copied.flatten(1, 2),
            table=table[:, :, length - stop : length - stop + width],
            relative=relative,
            shifted=relative.as_strided(
                (n, heads, rows, length),
                (rows * width, n * rows * width, width - 1, 1),
                relative.storage_offset() + rows - 1,
            ),
            query=query[:, start:stop],
            scores=scores,
            scores_of_heads=scores.flatten(0, 1),
            out=out,
            sums=self.norms[:, :, start:stop],
        )


def _start_of(buffer: Tensor, *shape: int) -> Tensor:
    return buffer.view(-1)[: math.prod(shape)].view(shape)

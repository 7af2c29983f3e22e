"""The warpgroups that attend, two of them in turns.

A turn is two matmuls: the scores of a tile, and the values of the tile before. While one warpgroup has its
turn, the other computes its softmax (Shah et al., "FlashAttention-3", 2024). Tiles go from the newest to the
oldest, so that only the first ones need a mask.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.core.online_softmax import MASKED_SCORE
from pallas_kernels.paged_attention.extend.mosaic import copies
from pallas_kernels.paged_attention.extend.mosaic.barriers import arrive_per_warp, give_turn, take_turn, wait
from pallas_kernels.paged_attention.extend.mosaic.pieces import for_each_piece
from pallas_kernels.paged_attention.extend.mosaic.shape import (
    CHUNK,
    NUM_QUERY_TILES,
    NUM_STAGES,
    QUERY_ROWS,
    Barriers,
    Refs,
    Shape,
    Work,
    as_int,
    div,
    rem,
    slot_and_phase,
    when,
)


def attend_all(refs: Refs, warpgroup, shape: Shape) -> None:
    @when(warpgroup == 1)
    def _() -> None:
        give_turn(0)

    def one_piece(n, work: Work, num_used):
        num_tiles = work.num_tiles(shape)
        _attend_piece(refs, n, work.of_warpgroup(warpgroup, shape), num_tiles, num_used, warpgroup, shape)
        return (num_used + num_tiles,)

    for_each_piece(refs, shape, one_piece, jnp.int32(0))

    @when(warpgroup == 0)
    def _() -> None:
        take_turn(0)

    plgpu.wait_smem_to_gmem(0)


def _attend_piece(refs: Refs, n, work: Work, num_tiles, num_used, warpgroup, shape: Shape) -> None:
    slot, phase = slot_and_phase(n, NUM_QUERY_TILES)

    @when(n > 0)
    def _() -> None:
        """The result of the piece before has left the tile of its queries."""
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        arrive_per_warp(refs.barriers, Barriers.q_free + rem(n - 1, NUM_QUERY_TILES))

    wait(refs.barriers, Barriers.q_full + slot, phase)
    q_tile = refs.q_tiles.at[slot, :, warpgroup]

    def attended() -> jax.Array:
        return _attend(refs, q_tile, work, num_tiles, num_used, warpgroup, shape)

    _store(refs, q_tile, lax.switch(as_int(num_tiles > 0), [lambda: _zeros(shape), attended]), work, shape)


def _attend(refs: Refs, q_tile, work: Work, num_tiles, num_used, warpgroup, shape: Shape) -> jax.Array:
    """[QUERY_ROWS, head_dim]. The values of a tile are multiplied one step after its scores, the last ones
    alone."""
    num_seen_by_all = div(jnp.maximum(work.position + 1, 0), shape.tile)
    num_masked = jnp.clip(num_tiles - num_seen_by_all, 1, num_tiles)

    def step(is_masked: bool):
        def one_tile(i, carry):
            tile = num_tiles - 1 - i if is_masked else None
            return _step(refs, q_tile, work, tile, num_used + i, carry, warpgroup, shape)

        return one_tile

    carry = _first_step(refs, q_tile, work, num_tiles - 1, num_used, warpgroup, shape)
    carry = lax.fori_loop(1, num_masked, step(True), carry)
    acc, _, total, weights = lax.fori_loop(num_masked, num_tiles, step(False), carry)
    stage, phase = slot_and_phase(num_used + num_tiles - 1, NUM_STAGES)
    wait(refs.barriers, Barriers.v_full + stage, phase)

    def with_values(acc_ref):
        acc_ref[...] = acc
        plgpu.wgmma(acc_ref, weights, refs.v_tiles.at[stage])
        return acc_ref[...]

    acc = pl.run_scoped(with_values, plgpu.ACC((QUERY_ROWS, shape.head_dim), jnp.float32))
    arrive_per_warp(refs.barriers, Barriers.v_free + stage)
    return acc * _across(1 / total, acc)


def _first_step(refs: Refs, q_tile, work: Work, tile, count, warpgroup, shape: Shape):
    """The carry (weighted values, maximum in units of log 2, sum of weights, weights of the tile) of the
    first tile."""
    stage, phase = slot_and_phase(count, NUM_STAGES)
    wait(refs.barriers, Barriers.k_full + stage, phase)

    def scores_of(scores_ref):
        take_turn(warpgroup)
        _start_scores(scores_ref, refs, q_tile, stage, shape)
        give_turn(1 - warpgroup)
        return scores_ref[...]

    scores = pl.run_scoped(scores_of, plgpu.ACC((QUERY_ROWS, shape.tile), jnp.float32))
    arrive_per_warp(refs.barriers, Barriers.k_free + stage)
    scores = _masked(scores, tile, work, shape)
    top = scores.max(axis=1) * shape.log2_scale
    weights = jnp.exp2(scores * shape.log2_scale - _across(top, scores))
    return _zeros(shape), top, weights.sum(axis=1), weights.astype(refs.q.dtype)


def _step(refs: Refs, q_tile, work: Work, tile, count, carry, warpgroup, shape: Shape):
    """The carry after the scores of one more tile, number `count` of this program. A `tile` of None has no
    mask."""
    acc, top, total, weights = carry
    stage, phase = slot_and_phase(count, NUM_STAGES)
    v_stage, v_phase = slot_and_phase(count - 1, NUM_STAGES)
    wait(refs.barriers, Barriers.k_full + stage, phase)

    def with_accumulators(acc_ref, scores_ref):
        acc_ref[...] = acc
        take_turn(warpgroup)
        _start_scores(scores_ref, refs, q_tile, stage, shape)
        wait(refs.barriers, Barriers.v_full + v_stage, v_phase)
        plgpu.wgmma(acc_ref, weights, refs.v_tiles.at[v_stage])
        give_turn(1 - warpgroup)
        scores = plgpu.wgmma_accumulator_load(scores_ref, wait_n=1)
        arrive_per_warp(refs.barriers, Barriers.k_free + stage)
        if tile is not None:
            scores = _masked(scores, tile, work, shape)
        new_top = jnp.maximum(top, scores.max(axis=1) * shape.log2_scale)
        new_weights = jnp.exp2(scores * shape.log2_scale - _across(new_top, scores))
        rescale = jnp.exp2(top - new_top)
        new_total = total * rescale + new_weights.sum(axis=1)
        weighted = acc_ref[...]
        arrive_per_warp(refs.barriers, Barriers.v_free + v_stage)
        return weighted * _across(rescale, weighted), new_top, new_total, new_weights.astype(weights.dtype)

    shapes = (QUERY_ROWS, shape.head_dim), (QUERY_ROWS, shape.tile)
    return pl.run_scoped(with_accumulators, *(plgpu.ACC(sizes, jnp.float32) for sizes in shapes))


def _start_scores(scores_ref, refs: Refs, q_tile, stage, shape: Shape) -> None:
    for chunk in range(shape.chunks):
        keys = refs.k_tiles.at[stage, :, pl.ds(chunk * CHUNK, CHUNK)]
        plgpu.wgmma(scores_ref, q_tile.at[chunk], keys.transpose((1, 0)))


def _masked(scores: jax.Array, tile, work: Work, shape: Shape) -> jax.Array:
    """A query sees the positions up to its own. Where it sees nothing of its first tile, masked scores weigh
    1 and not 0; the first unmasked score rescales them to 0."""

    def iota(axis: int) -> jax.Array:
        return plgpu.broadcasted_iota(jnp.int32, scores.shape, axis, layout=plgpu.Layout.WGMMA)

    token = lax.shift_right_logical(iota(0), jnp.int32(shape.heads.bit_length() - 1))
    return jnp.where(iota(1) + (tile * shape.tile - work.position) <= token, scores, MASKED_SCORE)


def _across(per_row: jax.Array, like: jax.Array) -> jax.Array:
    return lax.broadcast_in_dim(per_row, like.shape, (0,))


def _zeros(shape: Shape) -> jax.Array:
    return plgpu.layout_cast(jnp.zeros((QUERY_ROWS, shape.head_dim), jnp.float32), plgpu.Layout.WGMMA)


def _store(refs: Refs, q_tile, result: jax.Array, work: Work, shape: Shape) -> None:
    """Stores through the tile of the queries where all rows of the warpgroup are queries, else element by
    element: after a row's last query follow those of the next row."""
    result = result.astype(refs.out.dtype)
    is_full = work.num_queries >= shape.tokens

    @when(is_full)
    def _() -> None:
        for chunk in range(shape.chunks):
            q_tile[chunk] = result[:, chunk * CHUNK : (chunk + 1) * CHUNK]
        plgpu.commit_smem()
        sizes = shape.tokens, shape.heads
        copies.start_store(q_tile, refs.out, token=work.token, head=work.head, shape=sizes)

    @when(jnp.logical_not(is_full))
    def _() -> None:
        copies.store_rows(
            result,
            refs.out,
            token=work.token,
            head=work.head,
            num_tokens=jnp.maximum(work.num_queries, 0),
            heads=shape.heads,
        )

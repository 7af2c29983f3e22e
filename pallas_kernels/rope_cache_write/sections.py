"""Sections of the work, queries, keys and values, and the tiles of heads that a program reads and writes."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.triton_call import ceil_div, next_power_of_two
from pallas_kernels.rope_cache_write.tuning import RopeCacheWriteBlocks, section_heads


@dataclass(frozen=True)
class Section:
    """Queries, keys or values: their heads in the projection's output, a program's share, the programs of a
    group."""

    first_head: int
    num_heads: int
    block_heads: int
    block_tokens: int
    programs: range


def divide(
    num_tokens: int, num_heads: int, num_kv_heads: int, blocks: RopeCacheWriteBlocks
) -> tuple[list[Section], int]:
    """The three sections, and the tokens of a group: the most that a program of any section serves."""
    sizes = num_heads, num_kv_heads, num_kv_heads
    block_heads = [section_heads(size, blocks) for size in sizes]
    block_tokens = [min(blocks.rows // block, next_power_of_two(num_tokens)) for block in block_heads]
    group_tokens = max(block_tokens)
    sections: list[Section] = []
    first_head = first_program = 0
    for size, block, tokens in zip(sizes, block_heads, block_tokens, strict=True):
        programs = range(first_program, first_program + ceil_div(size, block) * (group_tokens // tokens))
        sections.append(Section(first_head, size, block, tokens, programs))
        first_head = first_head + size
        first_program = programs.stop
    return sections, group_tokens


class SectionRows(NamedTuple):
    """The share of a program: tokens [tokens] and heads [heads] within the section, and which of them there
    are."""

    section: Section
    token: Array
    token_inside: Array
    head: Array
    head_inside: Array


class HeadTile(NamedTuple):
    """Some columns of the rows: indices [tokens, heads, columns], and which of them there are.

    The tokens' angles and the columns' scales are loaded by these as well, once per head: the repeated reads
    come from L1, and every value lands in the thread that needs it. Loaded once, they go through shared
    memory, one barrier after another.
    """

    token: Array
    head: Array  # within the section
    projected_head: Array  # within the projection's output
    angle: Array  # the index of each column within the part
    column: Array
    inside: Array

    def load(self, ref, *index: Array) -> Array:
        """ref[*index], and zero outside."""
        return plt.load(ref.at[index], mask=self.inside, other=0)


def where_it_serves(section: Section, program: Array):
    return pl.when((program >= section.programs.start) & (program < section.programs.stop))


def section_rows(section: Section, program: Array, first_token: Array, num_tokens: int) -> SectionRows:
    head_blocks = ceil_div(section.num_heads, section.block_heads)
    block = program - section.programs.start
    token = first_token + block // head_blocks * section.block_tokens + jnp.arange(section.block_tokens)
    head = block % head_blocks * section.block_heads + jnp.arange(section.block_heads)
    return SectionRows(section, token, token < num_tokens, head, head < section.num_heads)


class HeadPart(NamedTuple):
    """Columns of a head: the first, how many, and from each to the next."""

    first_column: int
    num_columns: int
    step: int = 1


def rotary_parts(head_dim: int, half: int, *, interleaved: bool) -> list[HeadPart]:
    """The columns that are rotated, of the first of each pair and of the second, and, where the rotation is
    partial, the rest."""
    pairs = (
        [HeadPart(0, half, 2), HeadPart(1, half, 2)]
        if interleaved
        else [HeadPart(0, half), HeadPart(half, half)]
    )
    return pairs if 2 * half == head_dim else [*pairs, HeadPart(2 * half, head_dim - 2 * half)]


def tile_of(rows: SectionRows, part: HeadPart) -> HeadTile:
    angle = jnp.arange(next_power_of_two(part.num_columns))
    inside = _spread(rows.token_inside, rows.head_inside, angle < part.num_columns)
    token, head, angle = _spread(rows.token, rows.head, angle)
    return HeadTile(
        token,
        head,
        rows.section.first_head + head,
        angle,
        part.first_column + part.step * angle,
        functools.reduce(jnp.logical_and, inside),
    )


def _spread(token: Array, head: Array, column: Array) -> list[Array]:
    return jnp.broadcast_arrays(token[:, None, None], head[None, :, None], column[None, None, :])

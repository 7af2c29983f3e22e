"""Blocks of the sampling kernels: tuned numbers where there are any, else a heuristic."""

import itertools
from dataclasses import dataclass, replace

from pallas_kernels.core.device import THREADS_PER_WARP, target_device
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two
from pallas_kernels.core.tuned import tuned_blocks
from pallas_kernels.sampling.draw import draw_slice_size

MAX_SLICES_PER_PROGRAM = 8
PROGRAMS_PER_MULTIPROCESSOR = 8  # that have something to do before any has more slices than it needs
MAX_THREAD_LOGITS = 32  # that a thread holds at once
# The same where tokens are chosen: more of them cost registers, and much code to compile.
MAX_CHOICE_LOGITS = 8
CHUNK = 2048  # that programs load at once which choose a token
TOP_CHUNK = 8192  # and those that look for the largest
CANDIDATE_CHUNK = 1024
MAX_CANDIDATES = 8192


@dataclass(frozen=True)
class SampleBlocks:
    """A row is cut into slices of `slice_size` logits (a power of two, as all of these; see
    `draw_slice_size`).

    The first kernel's programs take `slices_per_program` of them. The second kernel's go over the slices that
    matter `slices_per_chunk` at a time, and over what they collect there, at most `max_candidates` logits, in
    chunks of `candidate_chunk`.
    """

    slice_size: int
    slices_per_program: int
    num_warps: int
    slices_per_chunk: int
    candidate_chunk: int
    max_candidates: int
    num_choice_warps: int


@dataclass(frozen=True)
class TopBlocks:
    """A row is read once, `slices_per_chunk` slices of `slice_size` logits at a time."""

    slice_size: int
    slices_per_chunk: int
    num_warps: int


def num_slices(vocab_size: int, blocks: SampleBlocks | TopBlocks) -> int:
    """The slices of a row, the last of which may overhang."""
    return ceil_div(vocab_size, blocks.slice_size)


def sample_key(num_rows: int, vocab_size: int) -> dict[str, int | str]:
    """The facts that the choice depends on."""
    return {"rows": next_power_of_two(num_rows), "vocab": vocab_size}


top_key = sample_key


def sample_blocks(num_rows: int, vocab_size: int) -> SampleBlocks:
    """Slices do not depend on the number of rows: what is drawn of a row is the same in every batch."""
    slice_size = draw_slice_size(vocab_size)
    tuned = tuned_blocks("sampling", "sample", sample_key(num_rows, vocab_size), SampleBlocks)
    if tuned is not None:
        assert tuned.slice_size == slice_size, f"{tuned} would draw other tokens than slices of {slice_size}"
        return tuned
    slices = ceil_div(vocab_size, slice_size)
    fair_share = num_rows * slices // (PROGRAMS_PER_MULTIPROCESSOR * target_device().num_multiprocessors)
    slices_per_program = max(2, min(next_power_of_two(fair_share + 1) // 2, MAX_SLICES_PER_PROGRAM))
    return SampleBlocks(
        slice_size=slice_size,
        slices_per_program=min(slices_per_program, next_power_of_two(slices)),
        num_warps=4,
        slices_per_chunk=min(max(1, CHUNK // slice_size), next_power_of_two(slices)),
        candidate_chunk=min(CANDIDATE_CHUNK, next_power_of_two(vocab_size)),
        max_candidates=min(MAX_CANDIDATES, next_power_of_two(vocab_size)),
        num_choice_warps=8,
    )


def sample_candidates(num_rows: int, vocab_size: int) -> list[SampleBlocks]:
    """The candidates of a tuning sweep."""
    known = sample_blocks(num_rows, vocab_size)
    found = [known]
    for slices_per_program, num_warps, num_choice_warps in itertools.product(
        (2, 4, 8, 16), (2, 4, 8), (4, 8, 16)
    ):
        if known.slice_size * slices_per_program <= MAX_THREAD_LOGITS * THREADS_PER_WARP * num_warps:
            tried = replace(known, slices_per_program=slices_per_program, num_warps=num_warps)
            chunk = MAX_CHOICE_LOGITS * THREADS_PER_WARP * num_choice_warps
            slices_per_chunk = max(1, chunk // known.slice_size)
            found.append(replace(tried, slices_per_chunk=slices_per_chunk, num_choice_warps=num_choice_warps))
    return list(dict.fromkeys(found))


def top_blocks(num_rows: int, vocab_size: int) -> TopBlocks:
    """One program per row for any number of rows: few requests ask for log probabilities."""
    tuned = tuned_blocks("sampling", "top_logprobs", top_key(num_rows, vocab_size), TopBlocks)
    slice_size = draw_slice_size(vocab_size)
    slices_per_chunk = min(
        max(1, TOP_CHUNK // slice_size), next_power_of_two(ceil_div(vocab_size, slice_size))
    )
    return tuned or TopBlocks(slice_size, slices_per_chunk, num_warps=8)


def top_candidates(num_rows: int, vocab_size: int) -> list[TopBlocks]:
    """The candidates of a tuning sweep."""
    known = top_blocks(num_rows, vocab_size)
    tried = [
        TopBlocks(known.slice_size, max(1, chunk // known.slice_size), num_warps)
        for chunk, num_warps in itertools.product(
            (TOP_CHUNK // 4, TOP_CHUNK // 2, TOP_CHUNK, 2 * TOP_CHUNK), (4, 8, 16)
        )
        if chunk <= MAX_THREAD_LOGITS * THREADS_PER_WARP * num_warps
    ]
    return list(dict.fromkeys([known, *tried]))

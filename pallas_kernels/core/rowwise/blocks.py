"""Rows, arrays and warps of a program: a heuristic, and the candidates of a tuning sweep.

An operation's tuning.py asks its own tuned numbers first.
"""

import itertools
from dataclasses import dataclass, replace

from pallas_kernels.core.device import CACHE_BYTES, THREADS_PER_WARP, VECTOR_BYTES, target_device
from pallas_kernels.core.rowwise.columns import cut_columns
from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two

MAX_FEATURES = 16384  # that a program of MAX_WARPS holds in registers
MAX_WARPS = 32
THREAD_BYTES = 4 * VECTOR_BYTES  # that a thread loads at once; more costs registers, and with them threads
PROGRAM_BYTES = 8192  # that a program loads at once, where it can hold several rows
MAX_THREAD_FEATURES = 40  # that leave room for weights and enough threads
MAX_CANDIDATE_THREAD_FEATURES = 80
PROGRAMS_PER_MULTIPROCESSOR = 4  # that have something to do before any has more rows than one


@dataclass(frozen=True)
class RowBlocks:
    """A program takes `rows` rows at once, each in at most `pieces` (1 or 2) arrays.

    `evict_first` marks what is read and written as the first to leave the caches.
    """

    rows: int
    pieces: int
    evict_first: bool
    num_warps: int


def blocks_key(num_rows: int, features: int, itemsize: int) -> dict[str, int | str]:
    """The facts that the choice depends on."""
    return {"rows": next_power_of_two(num_rows), "features": features, "itemsize": itemsize}


def check_features(features: int) -> None:
    """Raises UnsupportedError for rows that are longer than a program can hold."""
    if features > MAX_FEATURES:
        raise UnsupportedError(
            f"{features} features: a program holds a whole row, of at most {MAX_FEATURES}; "
            "use implementation='reference'"
        )


def heuristic_blocks(
    num_rows: int, features: int, itemsize: int, *, num_inputs: int = 1, thread_bytes: int = THREAD_BYTES
) -> RowBlocks:
    """Blocks of a kernel that reads and writes `num_inputs` matrices, and loads `thread_bytes` a thread.

    Several short rows a program, but no more than leave every multiprocessor something to do, and half as
    much for a thread where there is little to do. Two pieces for a row that is a program's work by itself.
    """
    padded_bytes = next_power_of_two(features) * itemsize * num_inputs
    fair_share = ceil_div(num_rows, PROGRAMS_PER_MULTIPROCESSOR * target_device().num_multiprocessors)
    rows = min(max(1, PROGRAM_BYTES // padded_bytes), next_power_of_two(fair_share))
    warp_bytes = THREADS_PER_WARP * (thread_bytes if fair_share > 1 else THREAD_BYTES // 2)
    num_warps = max(1, min(rows * padded_bytes // warp_bytes, MAX_WARPS))
    evict_first = 2 * num_rows * features * itemsize * num_inputs > CACHE_BYTES
    blocks = RowBlocks(rows=rows, pieces=1, evict_first=evict_first, num_warps=num_warps)
    return _in_two_pieces(blocks, features, itemsize) if rows == 1 and fair_share > 1 else blocks


def _in_two_pieces(blocks: RowBlocks, features: int, itemsize: int) -> RowBlocks:
    """Two pieces, and as many threads as the shorter one has vectors, if each can hold its share of the
    row."""
    pieces = cut_columns(features, max_pieces=2)
    num_threads = min(pieces[-1].size * itemsize // VECTOR_BYTES, blocks.num_warps * THREADS_PER_WARP)
    if len(pieces) == 1 or sum(piece.size for piece in pieces) > MAX_THREAD_FEATURES * num_threads:
        return blocks
    return replace(blocks, pieces=2, num_warps=num_threads // THREADS_PER_WARP)


def candidate_blocks(known: RowBlocks, features: int) -> list[RowBlocks]:
    """`known` and those of its neighbours that registers hold: more rows, more and fewer threads, one piece
    and two."""
    found = [known]
    for more_rows, more_warps, evict_first in itertools.product((1, 2, 4), (0.5, 1, 2, 4), (False, True)):
        rows = known.rows * more_rows
        num_warps = max(1, min(int(known.num_warps * more_warps), MAX_WARPS))
        for pieces in (1, 2) if rows == 1 else (1,):
            cut = cut_columns(features, pieces)
            held = rows * sum(columns.size for columns in cut) // (num_warps * THREADS_PER_WARP)
            if len(cut) == pieces and held <= MAX_CANDIDATE_THREAD_FEATURES:
                found.append(
                    RowBlocks(rows=rows, pieces=pieces, evict_first=evict_first, num_warps=num_warps)
                )
    return list(dict.fromkeys(found))

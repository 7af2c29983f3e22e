"""Barriers of the kernel, and scalars and predicates for what goes below Pallas.

Pallas' own barriers count every thread of a warpgroup, once per copy. A tile of keys arrives in as many
copies as it has pages, so that would be a thousand arrivals; here one thread announces the bytes of all
copies, and each warp that has used them arrives once. A phase is the parity of how often a barrier has
completed, which callers know from counts that they keep anyway.

Functions named `emit_*` and those in `plgpu.inline_mgpu` run while the kernel is lowered, and emit
instructions.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.experimental.mosaic.gpu import utils
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, nvvm

WARPS = 4  # of a warpgroup
THREADS = 32 * WARPS
TURN_BARRIER = 8  # the first of two named barriers; Mosaic uses 0, and 1 up to the number of warpgroups

REF = plgpu.RefType()
SCALAR = plgpu.Layout.WG_SPLAT(())


def name_module(name: str) -> None:
    """Names the MLIR module that is being lowered, if only for what it might be dumped to.

    JAX would number the names, and so no two modules would be alike: Mosaic compiles those that are alike
    once, and XLA's compilation cache finds a program only by the very same text.
    """

    @plgpu.inline_mgpu()
    def set_name(ctx):
        operation = ir.InsertionPoint.current.block.owner
        while operation.parent is not None:
            operation = operation.parent
        operation.attributes["mosaic_gpu.dump_basename"] = ir.StringAttr.get(name)

    set_name()


def init_barriers(barriers, arrivals: Sequence[int]) -> None:
    """Barrier i completes after arrivals[i] arrivals. All warpgroups call it, and leave it together."""

    @plgpu.inline_mgpu(arg_types=(REF,))
    def init(ctx, barriers):
        one_thread = utils.single_thread_predicate(utils.ThreadSubset.BLOCK)
        for i, count in enumerate(arrivals):
            nvvm.mbarrier_init(emit_barrier(barriers, i).get_ptr(), emit_i32(count), predicate=one_thread)
        utils.inline_ptx("fence.mbarrier_init.release.cluster;", has_side_effects=True)
        utils.inline_ptx("bar.sync 0;", has_side_effects=True)

    init(barriers)


def wait(barriers, index, phase) -> None:
    """Waits for the end of `phase` (0 or 1). A barrier that has not completed yet counts as past phase 1."""

    @plgpu.inline_mgpu(arg_types=(REF, SCALAR, SCALAR))
    def wait_(ctx, barriers, index, phase):
        is_odd = arith.trunci(ir.IntegerType.get_signless(1), emit_value(phase))
        emit_barrier(barriers, index).wait_parity(is_odd)

    wait_(barriers, scalar(index), scalar(phase))


def arrive_once(barriers, index) -> None:
    """One arrival of the whole warpgroup, which its caller has synchronized."""

    @plgpu.inline_mgpu(arg_types=(REF, SCALAR))
    def arrive(ctx, barriers, index):
        emit_barrier(barriers, index).arrive(predicate=emit_one_thread())

    arrive(barriers, scalar(index))


def arrive_per_warp(barriers, index) -> None:
    """WARPS arrivals of the warpgroup, each when all of its warp has come here."""

    @plgpu.inline_mgpu(arg_types=(REF, SCALAR))
    def arrive(ctx, barriers, index):
        utils.warp_barrier()
        emit_barrier(barriers, index).arrive(predicate=emit_one_thread_per_warp())

    arrive(barriers, scalar(index))


def keep_together() -> None:
    """The warps of the warpgroup go on together.

    A warp that has nothing to do and that nothing waits for may else lag by a whole round of a ring. It then
    waits for the wrong one of two phases, and when no more rounds come, for ever.
    """

    @plgpu.inline_mgpu()
    def keep(ctx):
        utils.warpgroup_barrier()

    keep()


def take_turn(mine) -> None:
    """Waits until the other of two warpgroups has given the turn to this one."""

    @plgpu.inline_mgpu(arg_types=(SCALAR,))
    def take(ctx, mine):
        utils.inline_ptx(f"bar.sync $0, {2 * THREADS};", _emit_turn(mine), has_side_effects=True)

    take(scalar(mine))


def give_turn(other) -> None:
    """Gives the turn to the other warpgroup, without waiting."""

    @plgpu.inline_mgpu(arg_types=(SCALAR,))
    def give(ctx, other):
        utils.inline_ptx(f"bar.arrive $0, {2 * THREADS};", _emit_turn(other), has_side_effects=True)

    give(scalar(other))


def _emit_turn(warpgroup):
    return arith.addi(emit_value(warpgroup), emit_i32(TURN_BARRIER))


def scalar(x):
    """A scalar as the functions in `inline_mgpu` take it."""
    return jnp.asarray(x, jnp.int32)


def emit_value(scalar):
    return scalar.registers.flat[0]


def emit_index(scalar):
    return arith.index_cast(ir.IndexType.get(), emit_value(scalar))


def emit_i32(number: int):
    return utils.c(number, ir.IntegerType.get_signless(32))


def emit_barrier(barriers, index) -> utils.BarrierRef:
    """The barrier at `index`, a scalar or an int, of `barriers` in shared memory, 8 bytes each."""
    offset = emit_i32(index) if isinstance(index, int) else emit_value(index)
    return utils.BarrierRef(utils.memref_ptr(barriers), offset, None, 1)


def emit_one_thread():
    return utils.single_thread_predicate(utils.ThreadSubset.WARPGROUP)


def emit_one_thread_per_warp():
    return utils.single_thread_predicate(utils.ThreadSubset.WARP)

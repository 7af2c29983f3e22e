"""The kernel of `extend`: three warpgroups with roles, one that loads and two that attend.

A program takes pieces of work one after another, and loads the next while it attends one. A tile of keys and
one of values serve both attending warpgroups.
"""

from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.paged_attention.extend.mosaic.attend import attend_all
from pallas_kernels.paged_attention.extend.mosaic.barriers import init_barriers, name_module
from pallas_kernels.paged_attention.extend.mosaic.load import load_all
from pallas_kernels.paged_attention.extend.mosaic.shape import ATTENDING, Barriers, Refs, Shape, when

# A thread's, of the 65,536 of a multiprocessor: accumulators are most of what attending takes. Multiples of
# 8.
ATTENDING_REGISTERS, LOADING_REGISTERS = 232, 40


def kernel(*arguments, shape: Shape) -> None:
    refs = Refs(*arguments)
    warpgroup = lax.axis_index("warpgroup")
    name_module("paged_attention_extend")
    init_barriers(refs.barriers, Barriers.arrivals)

    @when(warpgroup < ATTENDING)
    def _() -> None:
        plgpu.set_max_registers(ATTENDING_REGISTERS, action="increase")
        attend_all(refs, warpgroup, shape)

    @when(warpgroup == ATTENDING)
    def _() -> None:
        plgpu.set_max_registers(LOADING_REGISTERS, action="decrease")
        load_all(refs, shape)

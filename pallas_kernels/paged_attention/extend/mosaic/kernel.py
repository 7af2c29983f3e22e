"""The kernel of `extend`: three warpgroups with roles, one that loads and two that attend.

A program takes pieces of work one after another, and loads the next while it attends one. A tile of keys and
one of values serve both attending warpgroups.
"""

from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.paged_attention.extend.mosaic.attend import attend_all
from pallas_kernels.paged_attention.extend.mosaic.barriers import init_barriers, name_module
from pallas_kernels.paged_attention.extend.mosaic.loading import Loading
from pallas_kernels.paged_attention.extend.mosaic.shape import ATTENDING, Shape, when


def kernel(*arguments, shape: Shape, loading: Loading) -> None:
    refs = loading.refs(*arguments)
    warpgroup = lax.axis_index("warpgroup")
    name_module("paged_attention_extend")
    init_barriers(refs.barriers, loading.arrivals)

    @when(warpgroup < ATTENDING)
    def _() -> None:
        plgpu.set_max_registers(loading.attending_registers, action="increase")
        attend_all(refs, warpgroup, shape)

    @when(warpgroup == ATTENDING)
    def _() -> None:
        plgpu.set_max_registers(loading.loading_registers, action="decrease")
        loading.load_all(refs, shape)

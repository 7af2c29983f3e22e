"""The part of the kernel that depends on how a cache stores keys and values: its operands, what more it has
in shared memory, and the warpgroup that loads. One table has it by the type of the pages."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from pallas_kernels.core.kv_pages import AnyKVPages, KVPages, QuantizedKVPages
from pallas_kernels.paged_attention.extend.mosaic import load, load_quantized
from pallas_kernels.paged_attention.extend.mosaic.shape import (
    Barriers,
    QuantizedBarriers,
    QuantizedPagesRefs,
    Refs,
    Shape,
)


class Loading(NamedTuple):
    """`operands` are the arrays of pages in global memory, and `staging` those in shared memory before the
    barriers; the kernel has all of them as `refs`. Registers are those of a thread, of the 65,536 of a
    multiprocessor, in multiples of 8: accumulators are most of what attending takes."""

    operands: Callable[[Any], tuple[Array, ...]]
    staging: Callable[[AnyKVPages, Shape], list]
    refs: Callable[..., Any]
    arrivals: tuple[int, ...]
    load_all: Callable[[Any, Shape], None]
    attending_registers: int
    loading_registers: int
    reduction_bytes: int  # of shared memory, which reductions of whole rows by a warp's threads do without


def _operands(pages: KVPages) -> tuple[Array, ...]:
    return (pages.array.reshape(-1, pages.num_kv_heads * pages.head_dim),)


def _quantized_operands(pages: QuantizedKVPages) -> tuple[Array, ...]:
    return pages.values.reshape(-1, pages.num_kv_heads * pages.head_dim), pages.scales.reshape(-1)


def _staging(pages: AnyKVPages, shape: Shape) -> list:
    return [
        plgpu.SMEM((2, shape.tile, shape.head_dim), pages.values_dtype),
        plgpu.SMEM((2, shape.tile), jnp.float32),
    ]


LOADING: Mapping[type, Loading] = {
    KVPages: Loading(
        operands=_operands,
        staging=lambda pages, shape: [],
        refs=Refs,
        arrivals=Barriers.arrivals,
        load_all=load.load_all,
        attending_registers=232,
        loading_registers=40,
        reduction_bytes=2048,
    ),
    QuantizedKVPages: Loading(
        operands=_quantized_operands,
        staging=_staging,
        refs=QuantizedPagesRefs,
        arrivals=QuantizedBarriers.arrivals,
        load_all=load_quantized.load_all,
        attending_registers=224,
        loading_registers=56,
        reduction_bytes=0,
    ),
}

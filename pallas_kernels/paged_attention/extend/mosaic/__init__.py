"""Paged attention in Pallas on Mosaic GPU: prefill on Hopper, where Triton's compiler keeps a kernel from the
limit."""

import functools
import importlib

import jax
from jaxtyping import Array

from pallas_kernels.core.kv_pages import AnyKVPages, KVPages
from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.paged_attention.extend import triton
from pallas_kernels.paged_attention.extend.mosaic.serves import OLDEST_JAX, is_best_for, why_not
from pallas_kernels.paged_attention.extend.mosaic.widened import Slots, num_slots, widen

__all__ = ["extend", "is_best_for", "load_runtime", "why_not"]


def load_runtime() -> None:
    """Lets this process run programs with Mosaic kernels that another has lowered.

    What runs them finds its library by an environment variable that JAX sets when Mosaic is imported, and
    else fails with "Symbols not found". Tracing a kernel imports it; reading a program from a file does not.
    """
    if jax.__version_info__ >= OLDEST_JAX:
        importlib.import_module("jax.experimental.pallas.mosaic_gpu")


def extend(
    q: Array,
    kv_pages: AnyKVPages,
    page_table: Array,
    query_starts: Array,
    lengths: Array,
    *,
    sinks: Array | None,
    options,
) -> Array:
    """See `pallas_kernels.paged_attention.extend`. Never interpreted: what is below Pallas in it cannot be.

    Raises UnsupportedError for what `why_not` names.
    """
    reason = why_not(q, kv_pages, sinks=sinks, options=options)
    if reason is not None:
        raise UnsupportedError(f"the Mosaic kernel does not serve this call: {reason}; use 'pallas'")
    from pallas_kernels.paged_attention.extend.mosaic.call import (
        call_extend,  # here, where JAX is known to have what it needs
    )

    # The arrays go by position, since jit would order named ones by name.
    attend = functools.partial(call_extend, scale=options.scale_for(q.shape[-1]))
    if isinstance(kv_pages, KVPages):
        return attend(q, kv_pages, page_table, query_starts, lengths)
    slots = Slots.of(
        page_table,
        query_starts,
        lengths,
        page_size=kv_pages.page_size,
        num_slots=num_slots(kv_pages, page_table),
    )

    def widened() -> Array:
        pages = widen(kv_pages, slots.sources, slots.used, interpret=False)
        return attend(q, pages, slots.page_table, query_starts, lengths)

    def as_stored() -> Array:
        rows = page_table, query_starts, lengths
        return triton.extend(q, kv_pages, *rows, sinks=None, options=options, interpret=False)

    always_fits = len(slots.sources) == page_table.size
    return widened() if always_fits else jax.lax.cond(slots.used <= len(slots.sources), widened, as_stored)

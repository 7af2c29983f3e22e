"""Options and checks of the functions of paged attention."""

from dataclasses import dataclass

import jax
from jaxtyping import Array

from pallas_kernels.core.kv_pages import AnyKVPages
from pallas_kernels.core.selection import UnsupportedError


@dataclass(frozen=True)
class AttentionOptions:
    """The choices that the package's formula leaves open.

    `scale=None` is head_dim ** -0.5; the others are absent when None.
    """

    scale: float | None = None
    sliding_window: int | None = None
    soft_cap: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"scale={self.scale} must be positive; None means head_dim ** -0.5")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(
                f"sliding_window={self.sliding_window}: a window holds at least 1 position; None means all"
            )
        if self.soft_cap is not None and not self.soft_cap > 0:
            raise ValueError(f"soft_cap={self.soft_cap} must be positive; None means no cap")

    def scale_for(self, head_dim: int) -> float:
        """The factor of the scores, of heads of `head_dim`."""
        return head_dim**-0.5 if self.scale is None else self.scale


PLAIN = AttentionOptions()


def check_shapes(
    q: Array | jax.ShapeDtypeStruct,
    kv_pages: AnyKVPages,
    *,
    page_table: Array,
    lengths: Array,
    sinks: Array | None,
) -> None:
    """Raises where they contradict each other, or where no implementation serves them."""
    num_heads, head_dim = q.shape[1:]
    num_kv_heads, cache_dim = kv_pages.num_kv_heads, kv_pages.head_dim
    if head_dim != cache_dim:
        raise ValueError(
            f"the queries have head_dim {head_dim} and the cache {cache_dim}; they must be equal"
        )
    if num_heads % num_kv_heads:
        raise ValueError(
            f"{num_heads} query heads cannot share {num_kv_heads} KV heads: it must be a whole multiple"
        )
    if page_table.shape[0] != lengths.shape[0]:
        raise ValueError(
            f"page_table has {page_table.shape[0]} rows and lengths {lengths.shape[0]}; they must be equal"
        )
    if sinks is not None and sinks.shape != (num_heads,):
        raise ValueError(f"sinks has shape {sinks.shape}, but {num_heads} query heads have a sink each")
    if q.dtype != kv_pages.dtype:
        raise UnsupportedError(
            f"queries in {q.dtype} over a cache in {kv_pages.dtype}: no implementation mixes dtypes yet"
        )

"""latent_attention.mla: all heads read the same cache, so that matrix products bound 128 heads, and reading
bounds 16."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.kernels.case import MODELS_FILE, Case, Limit, Target, Tuning, Work
from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs, Step
from pallas_kernels.core.selection import Implementation, should_interpret
from pallas_kernels.latent_attention import LatentPages, mla
from pallas_kernels.latent_attention.shapes import SHAPES, LatentShape
from pallas_kernels.latent_attention.triton import mla as triton_mla
from pallas_kernels.latent_attention.tuning import MlaBlocks, MlaCall, mla_candidates, mla_key

ITEMSIZE = 2


@dataclass(frozen=True)
class _Rows:
    rows: int
    positions: int
    shape: LatentShape
    page_size: int = 16

    @property
    def pages_each(self) -> int:
        return -(-self.positions // self.page_size)

    @property
    def cache_dim(self) -> int:
        return self.shape.latent_dim + self.shape.rope_dim

    @property
    def work(self) -> Work:
        """The products of the scores, over all of a position, and of the sums, over its latent part."""
        shape, num_positions = self.shape, self.rows * self.positions
        flops = 2 * num_positions * shape.num_heads * (self.cache_dim + shape.latent_dim)
        return Work(read_bytes=num_positions * self.cache_dim * ITEMSIZE, flops=flops)


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields DeepSeek's heads on one device and on several, DeepSeek-V2-Lite, and one request."""
    target = Target(70, "%")
    if smoke:
        yield _case("mla-64x4096", _Rows(2, 24, SHAPES["tiny"]), target)
        return
    case = _case("mla-64x4096", _Rows(64, 4096, SHAPES["deepseek-v3"]), target)
    yield replace(case, file_name=MODELS_FILE)
    for model in ("deepseek-v3-half", "deepseek-v3-quarter", "deepseek-v2-lite"):
        yield _case(f"mla-{model}-64x4096", _Rows(64, 4096, SHAPES[model]))
    yield _case("mla-64x4096-page-64", _Rows(64, 4096, SHAPES["deepseek-v3"], page_size=64))
    for model in ("deepseek-v3", "deepseek-v2-lite"):
        yield _case(f"mla-{model}-1x4096", _Rows(1, 4096, SHAPES[model]), is_latency=True)


def _case(name: str, paged: _Rows, target: Target | None = None, *, is_latency: bool = False) -> Case:
    shape = paged.shape
    call = MlaCall(
        rows=paged.rows,
        num_heads=shape.num_heads,
        latent_dim=shape.latent_dim,
        rope_dim=shape.rope_dim,
        page_size=paged.page_size,
        max_positions=paged.pages_each * paged.page_size,
        itemsize=ITEMSIZE,
    )
    heads = f"{shape.num_heads} heads, latent {shape.latent_dim} + {shape.rope_dim}"
    return Case(
        id=name,
        op="latent_attention.mla",
        shape=f"{paged.rows} x {paged.positions:,}, {heads}, page {paged.page_size}",
        work=paged.work,
        limit=Limit.TIGHTER,
        make=functools.partial(_make, paged),
        build=functools.partial(_pallas, shape.scale),
        reference=functools.partial(_call, shape.scale, "reference"),
        xla=functools.partial(_gathered, shape.scale),
        is_latency=is_latency,
        target=target,
        tuning=Tuning("latent_attention", "mla", mla_key(call), mla_candidates(call)),
    )


def _make(paged: _Rows, data: Data, num_sets: int) -> Inputs:
    """Makes queries for every call: the result of the call before, an average over latent vectors, would be a
    small query."""
    shape = paged.shape
    num_pages = paged.rows * paged.pages_each + 1
    sets = [
        (
            data.normal((paged.rows, shape.num_heads, shape.latent_dim)),
            data.normal((paged.rows, shape.num_heads, shape.rope_dim)),
            LatentPages(data.normal((num_pages, paged.page_size, paged.cache_dim))),
            data.page_table(paged.rows, paged.pages_each),
        )
        for _ in range(num_sets)
    ]
    return Inputs(data.integers(np.full(paged.rows, paged.positions)), sets)


def _call(scale: float, implementation: Implementation, lengths, arguments):
    q_latent, q_rope, kv_pages, table = arguments
    return lengths, mla(
        q_latent, q_rope, kv_pages, table, lengths, scale=scale, implementation=implementation
    )


def _pallas(scale: float, blocks: MlaBlocks | None) -> Step:
    if blocks is None:
        return functools.partial(_call, scale, "pallas")

    def step(lengths, arguments):
        q_latent, q_rope, kv_pages, table = arguments
        interpret = should_interpret(None)
        out = triton_mla(
            q_latent,
            q_rope,
            kv_pages.array,
            table,
            lengths,
            scale=scale,
            soft_cap=None,
            blocks=blocks,
            interpret=interpret,
        )
        return lengths, out

    return step


def _gathered(scale: float, lengths, arguments):
    """Attends to gathered pages, with scores, softmax and sums by XLA, in bfloat16 with float32 scores."""
    q_latent, q_rope, kv_pages, table = arguments
    kv = kv_pages.array[table].reshape(table.shape[0], -1, kv_pages.cache_dim)
    q = jnp.concatenate([q_latent, q_rope], axis=-1)
    scores = scale * jnp.einsum("rhd,rpd->rhp", q, kv, preferred_element_type=jnp.float32)
    seen = jnp.arange(kv.shape[1]) < lengths[:, None]
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf), axis=-1).astype(kv.dtype)
    return lengths, jnp.einsum("rhp,rpd->rhd", weights, kv[..., : q_latent.shape[-1]])

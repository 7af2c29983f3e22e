"""The calls of the kernels, jitted so that equal calls share a trace."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.triton_call import ceil_div, next_power_of_two, triton_call
from pallas_kernels.sampling.triton.choice import choice_kernel
from pallas_kernels.sampling.triton.logprobs import logprobs_kernel
from pallas_kernels.sampling.triton.slices import slices_kernel
from pallas_kernels.sampling.tuning import SampleBlocks, TopBlocks, num_slices, sample_blocks, top_blocks


def sample(
    logits: Array, *parameters: Array, interpret: bool, blocks: SampleBlocks | None = None
) -> tuple[Array, Array]:
    """See `pallas_kernels.sampling.sample`, whose other arguments are `parameters`, in order."""
    return _sample(logits, *parameters, interpret=interpret, blocks=blocks or sample_blocks(*logits.shape))


@jax.jit(static_argnames=("interpret", "blocks"))
def _sample(logits: Array, *parameters: Array, interpret: bool, blocks: SampleBlocks) -> tuple[Array, Array]:
    rows, vocab_size = logits.shape
    num_programs = ceil_div(num_slices(vocab_size, blocks), blocks.slices_per_program)
    of_slices = jax.ShapeDtypeStruct((rows, num_programs * blocks.slices_per_program), jnp.float32)
    statistics = triton_call(
        functools.partial(slices_kernel, blocks=blocks, interpret=interpret),
        *(logits, *parameters),
        out_shape=[of_slices] * 3,
        grid=(num_programs, rows),
        num_warps=blocks.num_warps,
        num_stages=1,
        interpret=interpret,
        name="sample_slices",
    )
    token_ids, is_finite, *_ = triton_call(
        functools.partial(choice_kernel, blocks=blocks, interpret=interpret),
        *(logits, *parameters, *statistics),
        out_shape=[
            _array(rows, dtype=jnp.int32),
            _array(rows, dtype=jnp.bool_),
            *_scratch(rows, vocab_size, blocks),
        ],
        grid=(rows,),
        num_warps=blocks.num_choice_warps,
        num_stages=1,
        interpret=interpret,
        name="sample_choice",
    )
    return token_ids, is_finite


def _scratch(rows: int, vocab_size: int, blocks: SampleBlocks) -> list[jax.ShapeDtypeStruct]:
    """The arrays that `choice.Scratch` refers to."""
    order = 2 * next_power_of_two(num_slices(vocab_size, blocks))
    candidates = blocks.max_candidates + blocks.slices_per_chunk * blocks.slice_size
    return [
        _array(rows, order, dtype=jnp.int32),
        _array(rows, candidates),
        _array(rows, candidates, dtype=jnp.int32),
    ]


def top_logprobs(
    logits: Array,
    token_ids: Array,
    wanted: Array,
    count: int,
    *,
    interpret: bool,
    blocks: TopBlocks | None = None,
) -> tuple[Array, Array, Array]:
    """See `pallas_kernels.sampling.top_logprobs`."""
    blocks = blocks or top_blocks(*logits.shape)
    return _top_logprobs(logits, token_ids, wanted, count=count, interpret=interpret, blocks=blocks)


@jax.jit(static_argnames=("count", "interpret", "blocks"))
def _top_logprobs(
    logits: Array, token_ids: Array, wanted: Array, *, count: int, interpret: bool, blocks: TopBlocks
) -> tuple[Array, Array, Array]:
    rows, vocab_size = logits.shape
    num_chunks = ceil_div(num_slices(vocab_size, blocks), blocks.slices_per_chunk)
    of_slices = _array(rows, num_chunks * blocks.slices_per_chunk)
    logprobs, top_ids, top, *_ = triton_call(
        functools.partial(logprobs_kernel, blocks=blocks, count=count, interpret=interpret),
        *(logits, token_ids, wanted),
        out_shape=[
            _array(rows),
            _array(rows, count, dtype=jnp.int32),
            _array(rows, count),
            of_slices,
            of_slices,
        ],
        grid=(rows,),
        num_warps=blocks.num_warps,
        num_stages=1,
        interpret=interpret,
        name="top_logprobs",
    )
    return logprobs, top_ids, top


def _array(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)

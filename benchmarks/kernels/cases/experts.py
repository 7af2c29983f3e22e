"""experts: one layer of a mixture from the router's product to the sum, bound by reading the weights of the
experts that have tokens, and at thousands of tokens by the matmul rate.

XLA's side is all experts on all tokens. Tuning chooses between the two, and the rows of the kernel's blocks;
`tune grouped_matmul` comes before it.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.kernels.case import MODELS_FILE, Case, Limit, Tuning, Work
from benchmarks.kernels.data import Data
from benchmarks.kernels.run import XLA_OPTIONS
from benchmarks.kernels.timing import Inputs, Step
from pallas_kernels.core.selection import Implementation, should_interpret
from pallas_kernels.core.weights import Mxfp4Weight, QuantizedWeight
from pallas_kernels.experts import experts, triton
from pallas_kernels.experts.contract import ExpertStacks
from pallas_kernels.experts.shapes import SHAPES, ExpertsShape
from pallas_kernels.experts.tuning import (
    MAX_XLA_TOKENS,
    ExpertsCall,
    ExpertsChoice,
    experts_candidates,
    experts_key,
)
from pallas_kernels.matmul import matmul
from pallas_kernels.router import RouterOptions, route

ITEMSIZE = 2
NUM_LAYERS = 2  # of the stack: a slice of it that XLA copies would be seen in the time
TOKENS = (1, 8, 64, 256, 4096)
MXFP4_TOKENS = (1, 64, 1024)
# A static slice of a stack is no copy with this one, which an engine has too.
ENGINE_OPTIONS = {**XLA_OPTIONS, "xla_gpu_enable_dynamic_slice_fusion": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """The input of a call, and the layer of the stack that it goes through."""

    x: Any
    layer: int = field(metadata={"static": True})


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields the experts of Qwen3-30B-A3B, and those of gpt-oss-20b in mxfp4."""
    if smoke:
        yield _case("moe-smoke", 2, ExpertsShape(4, 2, 64, 32))
        return
    for tokens in TOKENS:
        yield _case(f"moe-30b-a3b-{tokens}", tokens, SHAPES["qwen3-30b-a3b"])
    for tokens in MXFP4_TOKENS:
        yield _case(f"moe-gpt-oss-20b-mxfp4-{tokens}", tokens, SHAPES["gpt-oss-20b"], Mxfp4Weight)


def _case(name: str, tokens: int, shape: ExpertsShape, weights: type[QuantizedWeight] | None = None) -> Case:
    sizes = shape.num_experts, shape.num_features, shape.num_inner
    call = ExpertsCall(tokens, shape.top_k, *sizes, ITEMSIZE, weights and weights.__name__)
    return Case(
        id=name,
        op="experts.experts",
        shape=f"{tokens:,} tokens, {shape.top_k} of {shape.num_experts} experts, "
        f"{shape.num_features:,} -> {shape.num_inner:,}",
        work=_work(tokens, shape, weights),
        limit=Limit.TIGHTER,
        make=functools.partial(_make, tokens, shape, weights),
        build=functools.partial(_pallas, shape),
        reference=functools.partial(_layer, shape, "reference"),
        xla=functools.partial(_layer, shape, "xla") if tokens <= MAX_XLA_TOKENS and weights is None else None,
        is_latency=True,
        tuning=Tuning("experts", "experts", experts_key(call), experts_candidates(call)),
        compiler_options=ENGINE_OPTIONS,
        file_name=MODELS_FILE,
    )


def weight_bytes(weights: type[QuantizedWeight] | None) -> float:
    """The bytes of a weight, with its share of a scale."""
    return ITEMSIZE if weights is None else (4 + 8 / 32) / 8


def quantized(weights: type[QuantizedWeight] | None, w: Any) -> Any:
    """The stack as these weights, or as it is."""
    if weights is None:
        return w
    return jax.eval_shape(weights.of, w) if isinstance(w, jax.ShapeDtypeStruct) else jax.jit(weights.of)(w)


def _work(tokens: int, shape: ExpertsShape, weights_type: type[QuantizedWeight] | None) -> Work:
    """The weights of the experts that are hit where all are equally likely, and the products of the rows."""
    weights = 3 * shape.num_features * shape.num_inner
    num_hit = shape.num_experts * (1 - (1 - shape.top_k / shape.num_experts) ** tokens)
    num_bytes = round(weight_bytes(weights_type) * num_hit * weights)
    return Work(num_bytes, ITEMSIZE * tokens * shape.num_features, 2 * tokens * shape.top_k * weights)


def _make(
    tokens: int, shape: ExpertsShape, weights: type[QuantizedWeight] | None, data: Data, num_sets: int
) -> Inputs:
    """The carry is the weights of all layers. Every call has tokens of its own, whose experts are others."""
    num_experts, features, inner = shape.num_experts, shape.num_features, shape.num_inner
    carry = (
        data.normal((features, num_experts), scale=features**-0.5),
        quantized(weights, data.normal((NUM_LAYERS, num_experts, features, 2 * inner), scale=features**-0.5)),
        quantized(weights, data.normal((NUM_LAYERS, num_experts, inner, features), scale=inner**-0.5)),
    )
    return Inputs(carry, [Tokens(data.normal((tokens, features)), i % NUM_LAYERS) for i in range(num_sets)])


def _routed(shape: ExpertsShape, router: Any, x: Any) -> tuple[Any, Any]:
    logits = matmul(x, router, out_dtype=jnp.float32)
    return route(logits, RouterOptions(shape.top_k, renormalize=True))


def _layer(shape: ExpertsShape, implementation: Implementation, carry: Any, tokens: Tokens):
    router, gate_up, down = carry
    weights, expert_ids = _routed(shape, router, tokens.x)
    return carry, experts(
        tokens.x,
        weights,
        expert_ids,
        gate_up,
        down,
        layer=tokens.layer,
        activation=shape.activation,
        implementation=implementation,
    )


def _pallas(shape: ExpertsShape, choice: ExpertsChoice | None) -> Step:
    if choice is None:
        return functools.partial(_layer, shape, "pallas")
    if choice.way == "xla":
        return functools.partial(_layer, shape, "xla")

    def step(carry: Any, tokens: Tokens):
        router, gate_up, down = carry
        weights, expert_ids = _routed(shape, router, tokens.x)
        return carry, triton.experts(
            tokens.x,
            weights,
            expert_ids,
            ExpertStacks(gate_up, down, None, None),
            layer=tokens.layer,
            activation=shape.activation,
            residual=None,
            block_rows=choice.block_rows,
            interpret=should_interpret(None),
        )

    return step

"""What is compiled for an H200: every kernel, at the sizes that it meets there. An op adds a generator to
`CASES`."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pallas_kernels.core.weights import BlockFp8Weight, Mxfp4Weight, QuantizedWeight
from pallas_kernels.experts import experts
from pallas_kernels.experts import shapes as experts_shapes
from pallas_kernels.head_matmul import head_matmul
from pallas_kernels.head_matmul import shapes as head_matmul_shapes
from pallas_kernels.latent_attention import LatentPages, mla
from pallas_kernels.latent_attention import shapes as latent_shapes
from pallas_kernels.latent_cache_write import latent_cache_write
from pallas_kernels.latent_cache_write import shapes as latent_write_shapes
from pallas_kernels.layer_norm import layer_norm
from pallas_kernels.layer_norm import shapes as layer_norm_shapes
from pallas_kernels.matmul import MAX_NORM_ROWS, matmul
from pallas_kernels.matmul import shapes as matmul_shapes
from pallas_kernels.paged_attention import (
    AnyKVPages,
    AttentionOptions,
    KVPages,
    QuantizedKVPages,
    append_and_decode,
    decode,
)
from pallas_kernels.paged_attention import shapes as attention_shapes
from pallas_kernels.paged_attention.extend import triton as extend_triton
from pallas_kernels.quantize import quantize_rows
from pallas_kernels.quantize import shapes as quantize_shapes
from pallas_kernels.rms_norm import add_rms_norm, rms_norm
from pallas_kernels.rms_norm import shapes as norm_shapes
from pallas_kernels.rope_cache_write import rope_cache_write
from pallas_kernels.rope_cache_write import shapes as rope_shapes
from pallas_kernels.router import RouterOptions, route
from pallas_kernels.sampling import sample, top_logprobs
from pallas_kernels.sampling import shapes as sampling_shapes
from pallas_kernels.silu_and_multiply import shapes as activation_shapes
from pallas_kernels.silu_and_multiply import silu_and_multiply
from pallas_kernels.softmax import shapes as softmax_shapes
from pallas_kernels.softmax import softmax

Named = tuple[str, "Case"]
QUANTIZED_CACHES = (jnp.int8, jnp.float8_e4m3fn)
EXPERT_WEIGHTS = {"mxfp4": Mxfp4Weight.of, "block-fp8": BlockFp8Weight.of}
HARD_KINDS = ("int4-zeros", "mxfp4", "block-fp8-fp8")  # of weights: their kernels take the most registers


@dataclass(frozen=True)
class Case:
    """A call, and what its kernels (those whose names begin with `kernel`) run on: tensor cores through
    "wgmma" alone, through that or "mma", or perhaps none. What is donated must be overwritten in place, and
    a copy of weights would be more than `max_temporary_bytes`.

    All of this travels to another process: no lambdas.
    """

    function: Callable
    arguments: tuple[jax.ShapeDtypeStruct | AnyKVPages | LatentPages | QuantizedWeight, ...]
    kernel: str
    tensor_cores: Literal["wgmma", "mma"] | None = None
    named_arguments: dict[str, jax.ShapeDtypeStruct] = field(default_factory=dict)
    donate: tuple[int, ...] = ()
    max_temporary_bytes: int | None = None


def array(*shape: int, dtype: DTypeLike = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def indices(*shape: int) -> jax.ShapeDtypeStruct:
    return array(*shape, dtype=jnp.int32)


def pages(num_pages: int, page_size: int, shape, *, dtype=jnp.bfloat16, cache=None) -> AnyKVPages:
    """The cache of queries of this dtype; with `cache`, in 8 bits of that."""
    heads = shape.num_kv_heads
    values = array(2, num_pages, page_size, heads, shape.head_dim, dtype=cache or dtype)
    if cache is None:
        return KVPages(values)
    return QuantizedKVPages(
        values, array(2, num_pages, heads, page_size, dtype=jnp.float32), jnp.dtype(dtype)
    )


def pallas(function: Callable, **options) -> Callable:
    """The compiled kernel in Triton, and not what a machine without a GPU would get."""
    return functools.partial(function, implementation="triton", interpret=False, **options)


def paged_attention_cases() -> Iterator[Named]:
    for name in attention_shapes.SHAPES:
        yield decode_case(name, 64, 2048)
        yield extend_case(name, 8192, 8, 4096)
    for name in ("stories260K", "llama-3.1-8b", "gemma-2-2b-local"):
        yield decode_case(name, 64, 2048, dtype=jnp.float32)
        yield extend_case(name, 8192, 8, 4096, dtype=jnp.float32)
    for name, cache in itertools.product(("phi-2", "llama-3.1-8b", "gemma-2-2b-local"), QUANTIZED_CACHES):
        yield decode_case(name, 64, 2048, cache=cache)
        yield extend_case(name, 8192, 8, 4096, cache=cache)
    for options in ({}, {"cache": jnp.int8}):
        yield extend_case("gemma-4-26b-global", 128, 32, 4352, **options)
    yield decode_case("llama-3.1-8b", 256, 1024, cache=jnp.int8)
    yield extend_case("llama-3.1-8b", 8192, 8, 4096, page_size=1, cache=jnp.int8)
    yield decode_case("llama-3.1-8b", 64, 2048, dtype=jnp.float32, cache=jnp.int8)
    for rows, positions in ((1, 1024), (1, 131_072), (8, 16_384), (256, 1024)):
        yield decode_case("llama-3.1-8b", rows, positions)
    for sizes in ((8192, 1, 8192), (32_768, 16, 2048), (8192, 32, 4352), (128, 32, 4352), (4, 1, 512)):
        yield extend_case("llama-3.1-8b", *sizes)
    for page_size in (1, 8, 64, 256):
        yield decode_case("llama-3.1-8b", 64, 2048, page_size=page_size)
        yield extend_case("llama-3.1-8b", 8192, 8, 4096, page_size=page_size)


def decode_case(name: str, rows: int, positions: int, **options) -> Named:
    case = _attention_case(decode, name, rows, rows, positions, tensor_cores="mma", **options)
    return f"decode-{name}-{rows}x{positions}{_suffix(options)}", case


def extend_case(name: str, tokens: int, rows: int, positions: int, **options) -> Named:
    is_prefill = tokens >= 64 * rows  # enough of each row for Hopper's own instructions
    tensor_cores = "wgmma" if is_prefill else "mma"
    case = _attention_case(triton_extend, name, tokens, rows, positions, tensor_cores=tensor_cores, **options)
    return f"extend-{name}-{tokens}-of-{rows}x{positions}{_suffix(options)}", case


def triton_extend(*arguments, options, sinks=None):
    """Also where the public function takes Mosaic's kernel, which is no kernel of XLA's."""
    return extend_triton.extend(*arguments, sinks=sinks, options=options, interpret=False)


def _suffix(options: dict) -> str:
    return "".join(f"-{key}={getattr(value, '__name__', value)}" for key, value in options.items())


def _attention_case(
    function,
    name,
    tokens,
    rows,
    positions,
    *,
    tensor_cores,
    page_size=16,
    dtype=jnp.bfloat16,
    cache: DTypeLike | None = None,
) -> Case:
    shape = attention_shapes.SHAPES[name]
    max_pages = positions // page_size
    options = AttentionOptions(sliding_window=shape.sliding_window, soft_cap=shape.soft_cap)
    is_decode = function is decode
    return Case(
        pallas(decode, options=options) if is_decode else functools.partial(function, options=options),
        (
            array(tokens, shape.num_heads, shape.head_dim, dtype=dtype),
            pages(rows * max_pages + 1, page_size, shape, dtype=dtype, cache=cache),
            indices(rows, max_pages),
            *([] if is_decode else [indices(rows + 1)]),
            indices(rows),
        ),
        kernel=f"paged_attention_{'decode' if is_decode else 'extend'}",
        tensor_cores=None
        if dtype == jnp.float32
        else tensor_cores,  # no tensor core multiplies float32 exactly
        named_arguments={"sinks": array(shape.num_heads, dtype=jnp.float32)} if shape.sinks else {},
    )


def row_cases() -> Iterator[Named]:
    """Operations on rows of features, for one row and for many."""
    for rows, (name, features) in itertools.product((1, 8192), _distinct(norm_shapes.SHAPES)):
        x, weight = array(rows, features), array(features)
        yield _row_case(rms_norm, name, x, weight, epsilon=1e-6)
        yield _row_case(add_rms_norm, name, x, x, weight, epsilon=1e-6)
    for rows, (name, features) in itertools.product((1, 8192), _distinct(layer_norm_shapes.SHAPES)):
        yield _row_case(
            layer_norm, name, array(rows, features), array(features), array(features), epsilon=1e-5
        )
    for rows, (name, hidden) in itertools.product((1, 8192), _distinct(activation_shapes.SHAPES)):
        yield _row_case(silu_and_multiply, name, array(rows, 2 * hidden))
    for rows, (name, num_experts) in itertools.product((1, 8192), _distinct(softmax_shapes.EXPERTS)):
        yield _row_case(softmax, f"{name}-experts", array(rows, num_experts))
    for rows, (name, vocabulary) in itertools.product((1, 64), _distinct(softmax_shapes.VOCABULARIES)):
        yield _row_case(softmax, f"{name}-vocabulary", array(rows, vocabulary, dtype=jnp.float32))


def _distinct(shapes: Mapping[str, int]) -> list[tuple[str, int]]:
    """One name of each size: models share them, and a kernel is the same for all."""
    return list({size: (name, size) for name, size in shapes.items()}.values())


def _row_case(
    function: Callable, name: str, x: jax.ShapeDtypeStruct, *others: jax.ShapeDtypeStruct, **options
) -> Named:
    case = Case(pallas(function, **options), (x, *others), kernel=function.__name__)
    return f"{function.__name__}-{name}-{x.shape[0]}", case


def rope_cache_write_cases() -> Iterator[Named]:
    for (name, shape), tokens in itertools.product(rope_shapes.SHAPES.items(), (64, 8192)):
        scale = array(shape.head_dim, dtype=jnp.float32 if name.startswith("gemma") else jnp.bfloat16)
        norm = dict.fromkeys(["q_scale", "k_scale"], scale) if shape.is_normalized else {}
        yield f"rope_cache_write-{name}-{tokens}", _rope_cache_write_case(shape, tokens, norm)
    for tokens in (1, 64):
        norm = dict.fromkeys(["q_scale", "k_scale"], array(36, 128)) | {"layer": indices()}
        case = _rope_cache_write_case(rope_shapes.SHAPES["qwen3-8b"], tokens, norm)
        yield f"rope_cache_write-qwen3-8b-{tokens}-layers", case
    for name, cache in itertools.product(("phi-2", "glm-4-9b", "qwen3-next-80b"), QUANTIZED_CACHES):
        case = _rope_cache_write_case(rope_shapes.SHAPES[name], 8192, {}, cache=cache)
        yield f"rope_cache_write-{name}-8192-{cache.__name__}", case
    shape = rope_shapes.SHAPES["qwen3-8b"]
    norm = dict.fromkeys(["q_scale", "k_scale"], array(36, 128)) | _fixed_scales(shape)
    for tokens, cache in itertools.product((64, 8192), QUANTIZED_CACHES):
        case = _rope_cache_write_case(shape, tokens, norm, cache=cache)
        yield f"rope_cache_write-qwen3-8b-{tokens}-{cache.__name__}-fixed", case


def _fixed_scales(shape: rope_shapes.RopeCacheShape) -> dict[str, jax.ShapeDtypeStruct]:
    """Of a cache in 8 bits, for a stack of layers."""
    return {"kv_scales": array(36, 2, shape.num_kv_heads, dtype=jnp.float32), "layer": indices()}


def _rope_cache_write_case(
    shape: rope_shapes.RopeCacheShape, tokens: int, norm: dict[str, jax.ShapeDtypeStruct], *, cache=None
) -> Case:
    heads = tokens, shape.num_heads + 2 * shape.num_kv_heads, shape.head_dim
    return Case(
        pallas(
            rope_cache_write,
            epsilon=1e-6 if "q_scale" in norm else None,
            interleaved=shape.interleaved,
        ),
        (
            array(*heads),
            pages(8193, 16, shape, cache=cache),
            *[array(tokens, shape.rotary_dim // 2, dtype=jnp.float32)] * 2,
            *[indices(tokens)] * 2,
        ),
        kernel="rope_cache_write",
        named_arguments=norm,
        donate=(1,),
    )


def append_and_decode_cases() -> Iterator[Named]:
    """What decode steps of the engine run: rows that may become long, many or few of them, and a stack of
    scales."""
    for name, shape in rope_shapes.SHAPES.items():
        yield f"append_and_decode-{name}-64", _append_and_decode_case(shape, 64)
    for name, rows in itertools.product(("qwen3-0.6b", "qwen3-8b", "qwen2.5-7b"), (1, 16, 256)):
        yield f"append_and_decode-{name}-{rows}", _append_and_decode_case(rope_shapes.SHAPES[name], rows)
    small = rope_shapes.RopeCacheShape(14, 2, 64, 64)
    yield "append_and_decode-qwen2-0.5b-1", _append_and_decode_case(small, 1)
    options = AttentionOptions(sliding_window=128)
    yield "append_and_decode-window-64", _append_and_decode_case(small, 64, options=options)
    yield "append_and_decode-float32-64", _append_and_decode_case(small, 64, dtype=jnp.float32)
    for name, cache in itertools.product(("glm-4-9b", "qwen3-8b", "qwen3-next-80b"), QUANTIZED_CACHES):
        case = _append_and_decode_case(rope_shapes.SHAPES[name], 64, cache=cache)
        yield f"append_and_decode-{name}-64-{cache.__name__}", case
    for name, cache in itertools.product(("qwen3-8b", "qwen2.5-7b"), QUANTIZED_CACHES):
        case = _append_and_decode_case(rope_shapes.SHAPES[name], 64, cache=cache, is_fixed=True)
        yield f"append_and_decode-{name}-64-{cache.__name__}-fixed", case


def _append_and_decode_case(
    shape: rope_shapes.RopeCacheShape,
    rows: int,
    *,
    dtype=jnp.bfloat16,
    cache=None,
    is_fixed: bool = False,
    **options,
) -> Case:
    max_pages = 2560
    scale_dtype = jnp.float32 if shape.head_dim == 256 else dtype  # as of 1 + w
    norm = dict.fromkeys(["q_scale", "k_scale"], array(36, shape.head_dim, dtype=scale_dtype)) | {
        "layer": indices()
    }
    return Case(
        pallas(
            append_and_decode,
            epsilon=1e-6 if shape.is_normalized else None,
            interleaved=shape.interleaved,
            **options,
        ),
        (
            array(rows, shape.num_heads + 2 * shape.num_kv_heads, shape.head_dim, dtype=dtype),
            pages(8193, 16, shape, dtype=dtype, cache=cache),
            indices(rows, max_pages),
            indices(rows),
            *[array(rows, shape.rotary_dim // 2, dtype=jnp.float32)] * 2,
        ),
        kernel="append_and_decode",
        tensor_cores=None if dtype == jnp.float32 else "mma",
        named_arguments=(norm if shape.is_normalized else {}) | (_fixed_scales(shape) if is_fixed else {}),
        donate=(1,),
    )


def matmul_cases() -> Iterator[Named]:
    for (name, shape), rows in itertools.product(matmul_shapes.SHAPES.items(), (8, 64)):
        sides = (shape.num_out, shape.num_in) if shape.transposed else (shape.num_in, shape.num_out)
        yield _matmul_case(f"{name}-{rows}", rows, sides, None, transposed=shape.transposed)
    for model, rows in (
        ("qwen3-0.6b", 1),
        ("qwen3-0.6b", 16),
        ("qwen3-8b", 1),
        ("qwen3-8b", 16),
        ("qwen3-8b", 128),
    ):
        for layer, fused in (
            ("qkv", "norm"),
            ("o", "residual"),
            ("gate-up", "norm-gated"),
            ("down", "residual"),
        ):
            shape = matmul_shapes.SHAPES[f"{model}-{layer}"]
            yield _matmul_case(
                f"{model}-{layer}-{rows}-{fused}", rows, (shape.num_in, shape.num_out), fused, layers=28
            )
    for rows in (1, 16, 64):
        yield _matmul_case(f"gemma-2-2b-gate-up-{rows}", rows, (2304, 18432), "norm-gated-gelu", layers=26)


def _matmul_case(name: str, rows: int, sides: tuple[int, int], fused: str | None, **options) -> Named:
    """With a stack of `layers`, of which an operand tells which, and `fused`; or a matrix by itself."""
    if fused is None:
        num_in = sides[1 if options["transposed"] else 0]
        case = Case(pallas(matmul, **options), (array(rows, num_in), array(*sides)), "matmul", "wgmma")
        return f"matmul-{name}", case
    gated, is_gelu, layers = "gated" in fused, "gelu" in fused, options["layers"]
    named = {"layer": indices()}
    if "norm" in fused and rows <= MAX_NORM_ROWS:
        named["scale"] = array(layers, sides[0], dtype=jnp.float32 if is_gelu else jnp.bfloat16)
    if "residual" in fused:
        named["residual"] = array(rows, sides[1])
    function = functools.partial(_fused_matmul, gated=gated, activation="gelu_tanh" if is_gelu else "silu")
    return f"matmul-{name}", Case(
        function, (array(rows, sides[0]), array(layers, *sides)), "matmul", "wgmma", named_arguments=named
    )


def _fused_matmul(x, w, *, layer, scale=None, residual=None, gated, activation="silu"):
    norm = None if scale is None else (scale, 1e-6)
    options = {"gated": gated, "activation": activation}
    return pallas(matmul)(x, w, layer=layer, norm=norm, residual=residual, **options)


def quantized_cases() -> Iterator[Named]:
    """Stacks of layers with a norm and a gate, and with a residual."""
    sizes = [(1, "qkv"), (16, "gate-up"), (64, "down")]
    hardest = [(kind, (rows, "gate-up")) for kind in HARD_KINDS for rows in (64, 128)]
    for kind, (rows, layer) in [*itertools.product(matmul_shapes.QUANTIZED_WEIGHTS, sizes), *hardest]:
        shape = matmul_shapes.SHAPES[f"qwen3-8b-{layer}"]
        w = jax.eval_shape(matmul_shapes.QUANTIZED_WEIGHTS[kind], array(3, shape.num_in, shape.num_out))
        named = {"layer": indices()}
        if layer != "down" and rows <= MAX_NORM_ROWS:
            named["scale"] = array(3, shape.num_in)
        if layer == "down":
            named["residual"] = array(rows, shape.num_out)
        function = functools.partial(_fused_matmul, gated=layer == "gate-up")
        arguments = array(rows, shape.num_in), w
        yield (
            f"matmul-{kind}-{layer}-{rows}",
            Case(function, arguments, "matmul_quantized", "wgmma", named_arguments=named),
        )
    for kind in ("int4-zeros", "mxfp4", "fp8", "block-fp8-fp8"):
        # No block divides these sizes: loads are masked.
        arguments = array(5, 300), jax.eval_shape(matmul_shapes.QUANTIZED_WEIGHTS[kind], array(300, 200))
        yield f"matmul-{kind}-masked", Case(pallas(matmul), arguments, "matmul_quantized", "wgmma")
    for (name, features), rows in itertools.product(_distinct(quantize_shapes.SHAPES)[2:], (1, 8192)):
        for dtype, group_size in ((jnp.int8, None), (jnp.float8_e4m3fn, 128)):
            function = pallas(quantize_rows, dtype=dtype, group_size=group_size)
            case = Case(function, (array(rows, features),), "quantize_rows")
            yield f"quantize_rows-{name}-{rows}-{dtype.__name__}", case


def router_cases() -> Iterator[Named]:
    """The methods of published models that differ the most."""
    v3 = RouterOptions(
        8,
        "sigmoid",
        renormalize=True,
        scaling=2.5,
        num_groups=8,
        top_groups=4,
        group_score="two_best",
    )
    for name, num_experts, options in (
        ("qwen3-30b-a3b", 128, RouterOptions(8, renormalize=True)),
        ("deepseek-v2", 160, RouterOptions(6, scaling=16.0, num_groups=8, top_groups=3)),
        ("deepseek-v3", 256, v3),
    ):
        bias = {"correction_bias": array(num_experts, dtype=jnp.float32)} if options is v3 else {}
        function, logits = pallas(route, options=options), array(64, num_experts, dtype=jnp.float32)
        yield f"route-{name}", Case(function, (logits,), "route", named_arguments=bias)


def experts_cases() -> Iterator[Named]:
    """A layer of a stack, which is data, as a step of the engine has it."""
    sizes = [("qwen3-30b-a3b", tokens) for tokens in (1, 8, 64, 256, 4096)]
    sizes += [("mixtral-8x7b", 8), ("gpt-oss-20b", 64), ("deepseek-v2-lite", 512)]
    for name, tokens in sizes:
        yield f"experts-{name}-{tokens}", _experts_case(experts_shapes.SHAPES[name], tokens)
    for (kind, of), tokens in itertools.product(EXPERT_WEIGHTS.items(), (1, 1024)):
        case = _experts_case(experts_shapes.SHAPES["gpt-oss-20b"], tokens, of)
        yield f"experts-{kind}-gpt-oss-20b-{tokens}", case


def _experts_case(shape: experts_shapes.ExpertsShape, tokens: int, of: Callable | None = None) -> Case:
    """Few tokens an expert run on mma: its smallest dot has 16 rows, where wgmma's has 64."""
    num_experts, features, inner = shape.num_experts, shape.num_features, shape.num_inner
    gate_up = array(3, num_experts, features, 2 * inner)
    down = array(3, num_experts, inner, features)
    if of is not None:
        gate_up, down = jax.eval_shape(of, gate_up), jax.eval_shape(of, down)
    named = {"layer": indices(), "residual": array(tokens, features)}
    if shape.has_biases:
        named |= {
            "gate_up_bias": array(3, num_experts, 2 * inner),
            "down_bias": array(3, num_experts, features),
        }
    is_wide = of is not None or tokens * shape.top_k >= 32 * num_experts
    return Case(
        pallas(experts, activation=shape.activation),
        (
            array(tokens, features),
            array(tokens, shape.top_k, dtype=jnp.float32),
            indices(tokens, shape.top_k),
            gate_up,
            down,
        ),
        "grouped_matmul",
        "wgmma" if is_wide else "mma",
        named_arguments=named,
        max_temporary_bytes=16 * tokens * shape.top_k * max(features, inner),
    )


def mla_cases() -> Iterator[Named]:
    for name, shape in latent_shapes.SHAPES.items():
        for rows, positions in ((64, 4096), (1, 32_768)):
            case = Case(
                pallas(mla, scale=shape.scale),
                (
                    array(rows, shape.num_heads, shape.latent_dim),
                    array(rows, shape.num_heads, shape.rope_dim),
                    LatentPages(array(rows * positions // 16 + 1, 16, shape.latent_dim + shape.rope_dim)),
                    indices(rows, positions // 16),
                    indices(rows),
                ),
                kernel="latent_attention",
                tensor_cores="wgmma" if shape.num_heads >= 64 else "mma",
            )
            yield f"mla-{name}-{rows}x{positions}", case
    for name in ("deepseek-v2-lite", "deepseek-v3-quarter", "deepseek-v3"):
        yield f"mla-{name}-prompt-4096", _mla_of_prompts(latent_shapes.SHAPES[name])


def _mla_of_prompts(shape: latent_shapes.LatentShape, rows: int = 64, tokens: int = 4096) -> Case:
    """Queries of several tokens are in one program where heads are few."""
    return Case(
        pallas(mla, scale=shape.scale),
        (
            array(tokens, shape.num_heads, shape.latent_dim),
            array(tokens, shape.num_heads, shape.rope_dim),
            LatentPages(array(16_385, 16, shape.latent_dim + shape.rope_dim)),
            indices(rows, 256),
            indices(tokens),
        ),
        kernel="latent_attention",
        tensor_cores="wgmma",
        named_arguments={"row_ids": indices(tokens)},
    )


def latent_cache_write_cases() -> Iterator[Named]:
    for (name, shape), tokens in itertools.product(latent_write_shapes.SHAPES.items(), (64, 8192)):
        dim, half = shape.latent_dim + shape.rope_dim, shape.rope_dim // 2
        angles = array(tokens, half, dtype=jnp.float32)
        arguments = (
            array(tokens, shape.num_heads, shape.head_dim),
            array(tokens, dim),
            LatentPages(array(tokens // 16 + 1, 16, dim)),
            *(angles, angles, indices(tokens), indices(tokens)),
        )
        named = {"scale": array(27, shape.latent_dim), "layer": indices()}
        function = pallas(latent_cache_write, epsilon=1e-6, interleaved=shape.interleaved)
        case = Case(function, arguments, "latent_cache_write", named_arguments=named, donate=(2,))
        yield f"latent_cache_write-{name}-{tokens}", case


def head_matmul_cases() -> Iterator[Named]:
    for (name, shape), tokens in itertools.product(head_matmul_shapes.SHAPES.items(), (1, 64, 4096)):
        rows_each = shape.nope_dim + shape.value_dim
        weight = array(3, shape.num_heads * rows_each, shape.latent_dim)
        for kind, size, rows in (
            ("keys", shape.nope_dim, (0, shape.nope_dim)),
            ("values", shape.latent_dim, (shape.nope_dim, rows_each)),
        ):
            function = pallas(head_matmul, rows=rows, transposed=kind == "values")
            arguments = array(tokens, shape.num_heads, size), weight
            cores: Literal["wgmma", "mma"] = "wgmma" if tokens >= 64 else "mma"
            case = Case(function, arguments, "head_matmul", cores, {"layer": indices()})
            yield f"head_matmul-{name}-{kind}-{tokens}", case


def sampling_cases() -> Iterator[Named]:
    for (name, vocab), rows in itertools.product(sampling_shapes.VOCABULARIES.items(), (1, 256)):
        parameters = {
            **dict.fromkeys(["temperature", "top_p", "min_p"], array(rows, dtype=jnp.float32)),
            **dict.fromkeys(["top_k", "positions", "min_lengths"], indices(rows)),
            "seeds": array(rows, 2, dtype=jnp.uint32),
            "blocked_ids": indices(rows, 16),
        }
        logits = array(rows, vocab, dtype=jnp.float32)
        yield f"sample-{name}-{rows}", Case(pallas(sample), (logits,), "sample", named_arguments=parameters)
    for name, vocab in sampling_shapes.VOCABULARIES.items():
        arguments = array(64, vocab, dtype=jnp.float32), indices(64), array(64, dtype=jnp.bool_)
        yield f"top_logprobs-{name}-64", Case(pallas(top_logprobs), arguments, "top_logprobs")


CASES = dict(
    [
        *paged_attention_cases(),
        *row_cases(),
        *rope_cache_write_cases(),
        *append_and_decode_cases(),
        *matmul_cases(),
        *quantized_cases(),
        *router_cases(),
        *experts_cases(),
        *mla_cases(),
        *latent_cache_write_cases(),
        *head_matmul_cases(),
        *sampling_cases(),
    ]
)

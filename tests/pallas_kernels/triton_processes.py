"""Kernels in Triton proper without a GPU, in processes of their own: one interprets, one compiles for an
H200.

Triton decides when it is imported whether it interprets or compiles, so no process can do both.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from pallas_kernels.paged_attention import PLAIN, KVPages
from pallas_kernels.paged_attention.decode import jax_triton
from pallas_kernels.paged_attention.decode.tuning import DecodeBlocks
from tests.pallas_kernels import h200
from tests.pallas_kernels.paged_cases import PagedCase


def what_is_missing(*packages: str) -> str | None:
    """Why these packages cannot be imported here; None where they can. Nothing is imported, see above."""
    needed = dict.fromkeys(packages)
    if "jax_triton" in needed:
        needed["jax_cuda13_plugin"] = None  # jax-triton's import fails without it
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    return f'needs {", ".join(missing)}: pip install -e ".[cuda]"' if missing else None


@contextlib.contextmanager
def process(function: Callable, **environment: str) -> Iterator[Callable[..., Any]]:
    """`function` in one process of its own, with these variables, which has neither a GPU nor a compilation
    cache."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_start, initargs=(environment,)) as executor:
        yield lambda *arguments, **named: executor.submit(function, *arguments, **named).result()


def _start(environment: dict[str, str]) -> None:
    """The reasons against a GPU and a cache are those of `h200.compiler_process`."""
    os.environ.update(environment)  # triton is not imported yet: only its first kernel imports it
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)


def decode_interpreted(case: PagedCase, dtype: Any, *, blocks: DecodeBlocks | None = None) -> np.ndarray:
    """`jax_triton.decode` in Triton's interpreter; needs TRITON_INTERPRET=1. Of float32: it has no dot of
    bfloat16."""
    from triton.runtime import interpreter

    assert np.dtype(dtype) == np.float32, dtype
    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_for_numpy(tensor: type, scope: Any) -> None:
        """numpy 2.4 does not take an array [1] for an integer any more, and Triton 3.6 does, as a bound of a
        loop."""
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    with (
        mock.patch.object(interpreter, "_patch_lang_tensor", patch_tensor_for_numpy),
        mock.patch.object(jax_triton, "require_jax_triton", return_value=None),
        mock.patch.object(jax_triton, "jax_triton_call", _interpret),
    ):
        return jax_triton.decode(*case.arguments(dtype), **case.keywords(), blocks=blocks)


def _interpret(
    kernel: Callable,
    *operands: jax.Array,
    out_shape: Sequence[jax.ShapeDtypeStruct],
    grid: tuple[int, ...],
    constants: dict[str, Any],
    **compiler_options: Any,
) -> list[np.ndarray]:
    """`jax_triton_call` on a CPU: results that the kernel does not write are NaN."""
    arrays = [np.asarray(x) for x in operands] + [np.full(x.shape, np.nan, x.dtype) for x in out_shape]
    kernel[grid](*map(_pointer, arrays), **constants)
    return arrays[len(operands) :]


def _pointer(array: np.ndarray) -> Any:
    """As the interpreter has it inside of a kernel; outside it knows the tensors of torch alone."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    kind = tl.pointer_type(getattr(tl, array.dtype.name))
    return tl.tensor(TensorHandle(np.array([array.ctypes.data], np.uint64), kind), kind)


def decode_chain(q, kv_pages, page_table, lengths, *, call: str, num_decodes: int = 6):
    """A few decodes, each of which needs the one before, with something of XLA's between them."""
    for _ in range(num_decodes):
        q = jax_triton.decode(q * 0.5, kv_pages, page_table, lengths, sinks=None, options=PLAIN, call=call)
    return q


def compile_chain_for_h200(call: str) -> str:
    """The thunk sequence of `decode_chain` at 64 rows of 2,048 positions."""
    topology = topologies.get_topology_desc("h200", "cuda", target_config=h200.DESCRIPTION, topology="1x1x1")
    mesh = topologies.make_mesh(topology, (1,), ("device",))
    sharding = NamedSharding(mesh, PartitionSpec())
    shapes = {
        (64, 32, 128): jnp.bfloat16,
        (2, 8193, 16, 8, 128): jnp.bfloat16,
        (64, 128): jnp.int32,
        (64,): jnp.int32,
    }
    q, pages, *rows = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype in shapes.items()
    ]
    chain = jax.jit(decode_chain, static_argnames=("call", "num_decodes"))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return thunk_sequence(
            chain.trace(q, KVPages(pages), *rows, call=call).lower(lowering_platforms=("cuda",))
        )


def thunk_sequence(lowered: jax.stages.Lowered) -> str:
    """What XLA launches, in order; the members of a CUDA graph are indented below a kCommandBuffer."""
    with tempfile.TemporaryDirectory(prefix="thunks-") as folder:
        lowered.compile(compiler_options={"xla_dump_to": folder})
        sequences = sorted(Path(folder).glob("*thunk_sequence*.txt"), key=lambda path: len(path.name))
        return sequences[
            -1
        ].read_text()  # the longer name is the later one, after the passes; there may be none

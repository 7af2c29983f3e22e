"""What this machine reaches at most, measured: the figure that a kernel is held against."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import jax.numpy as jnp

from benchmarks.kernels.data import Data, RandomData, ShapesOnly, compile_generators
from benchmarks.kernels.timing import SMOKE, THOROUGH, Chain, Inputs, Step, compile_chain


@dataclass(frozen=True)
class Limits:
    """`read`: the sum of 4 GiB. `copy`: 4 GiB read and as much written, by XLA's copy or negation, the faster of the
    two. `matmul`: bfloat16, 8192 x 8192 x 8192, through XLA."""

    read_tb_per_s: float
    copy_tb_per_s: float
    matmul_tflop_per_s: float

    def rounded(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def measure_limits(*, smoke: bool = False) -> Limits:
    """Takes some seconds and, unless it is a smoke test, 12 GiB of memory."""
    elements, size = (1 << 20, 128) if smoke else (1 << 30, 8192)

    def inputs_of(data: Data, step: Step) -> Inputs:
        if step is _product:
            return Inputs(None, [(data.normal((size, size)), data.normal((size, size)))])
        return Inputs(None, [(data.normal((elements,), jnp.float32),)])

    def compiled(step: Step) -> Chain:
        shapes = inputs_of(ShapesOnly(), step)
        compile_generators(shapes)
        num_calls = 8 if step in (_sum, _product) and not smoke else 2  # the others' results are of 4 GiB each
        return compile_chain(step, shapes, num_calls)

    def microseconds(step: Step, chain: Chain) -> float:
        return chain.time(inputs_of(RandomData(0), step), SMOKE if smoke else THOROUGH).microseconds

    steps = (_sum, _copy, _negative, _product)
    with ThreadPoolExecutor() as pool:
        chains = list(pool.map(compiled, steps))
    read_us, copy_us, negative_us, matmul_us = map(microseconds, steps, chains)
    tb = 4 * elements / 1e6
    return Limits(tb / read_us, 2 * tb / min(copy_us, negative_us), 2 * size**3 / matmul_us / 1e6)


def _sum(_, arguments):
    return None, arguments[0].sum()


def _copy(_, arguments):
    return None, jnp.copy(arguments[0])


def _negative(_, arguments):
    return None, -arguments[0]


def _product(_, arguments):
    return None, jnp.dot(*arguments)

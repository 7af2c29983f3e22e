"""The assembly that makes floats of bytes, run by an interpreter of its few instructions on every byte."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from pallas_kernels.matmul.quantized.triton import widen
from tests.pallas_kernels import ptx

# Four of all 256 bytes in a word, the first one lowest.
WORDS = np.random.default_rng(0).permutation(256).astype(np.uint8).reshape(64, 4)


@pytest.fixture
def assembly(monkeypatch):
    """(function, arguments) -> its programs, each of which makes two registers of four bytes."""
    programs: list[str] = []

    def keep(assembly, operands):
        programs.append(assembly)
        return jnp.zeros(operands[0].shape, jnp.bfloat16)

    monkeypatch.setattr(widen, "_four_at_once", keep)

    def assembled(function, zeros=None) -> list[str]:
        function(jnp.zeros((1, 4), jnp.uint8), zeros, interpret=False)
        return programs

    return assembled


def values(program: str, word: np.ndarray, zero: int = 0) -> np.ndarray:
    registers = {"$2": int(word.view(np.uint32)[0])}
    raised = int(np.asarray(128 + zero, ml_dtypes.bfloat16).view(np.uint16))
    after = ptx.run(program, registers | dict.fromkeys(("$3", "$4"), raised << 16 | raised))
    return np.concatenate([ptx.halves(after["$0"]), ptx.halves(after["$1"])])


def test_int8(assembly):
    (program,) = assembly(widen.widen_int8)
    for word in WORDS:
        np.testing.assert_array_equal(values(program, word), word.view(np.int8))


def test_int4(assembly):
    for half, program in enumerate(assembly(widen.widen_int4)):
        for word in WORDS:
            np.testing.assert_array_equal(values(program, word), ((word >> 4 * half) & 15).astype(int) - 8)


@pytest.mark.parametrize("zero", [0, 7, 15])
def test_int4_with_zeros(assembly, zero):
    for half, program in enumerate(assembly(widen.widen_int4, [jnp.zeros(1, jnp.int32)] * 2)):
        for word in WORDS:
            wanted = ((word >> 4 * half) & 15).astype(int) - zero
            np.testing.assert_array_equal(values(program, word, zero), wanted)

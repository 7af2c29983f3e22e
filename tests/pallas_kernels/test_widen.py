"""The assembly that makes floats of integers, run by an interpreter of its few instructions."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from pallas_kernels.core.widening import widen
from tests.pallas_kernels import ptx


@pytest.fixture
def assembly(monkeypatch):
    """(function, elements, zeros) -> its programs."""
    programs: list[str] = []

    def keep(assembly, operands, *, pack):
        programs.append(assembly)
        return jnp.zeros(operands[0].shape, jnp.bfloat16)

    monkeypatch.setattr(widen, "_assembled", keep)

    def assembled(function, elements, zeros=None) -> list[str]:
        function(elements, zeros, interpret=False)
        return programs

    return assembled


def test_int8_on_every_byte(assembly, rng):
    (program,) = assembly(widen.widen_int8, jnp.zeros((1, 4), jnp.int8))
    for word in rng.permutation(256).astype(np.uint8).reshape(64, 4):
        after = ptx.run(program, {"$2": int(word.view(np.uint32)[0])})
        got = np.concatenate([ptx.halves(after["$0"]), ptx.halves(after["$1"])])
        np.testing.assert_array_equal(got, word.view(np.int8))


def test_mxfp4_on_every_code_of_a_word(assembly, rng):
    values = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    programs = assembly(widen.widen_mxfp4, jnp.zeros((1, 2), jnp.uint16))
    words = np.concatenate([np.arange(16) * 0x1111, rng.integers(0, 2**16, 112)]).astype(np.uint16)
    for word in words.reshape(64, 2):
        for code, program in enumerate(programs):
            got = ptx.halves(ptx.run(program, {"$1": int(word.view(np.uint32)[0])})["$0"])
            codes = (word >> 4 * code) & 15
            wanted = np.where(codes < 8, 1, -1) * values[codes & 7]
            np.testing.assert_array_equal(got.view(np.uint32), wanted.astype(np.float32).view(np.uint32))


def test_scales_of_e8m0_are_powers_of_two():
    got = np.asarray(widen.widen_e8m0(jnp.arange(1, 255, dtype=jnp.uint8)))
    np.testing.assert_array_equal(got, np.ldexp(np.float32(1), np.arange(-126, 128)))
    smallest, largest = widen.widen_e8m0(jnp.asarray([0, 255], jnp.uint8)).view(jnp.uint32)
    assert (smallest, largest) == (np.float32(2.0**-127).view(np.uint32), np.float32(np.inf).view(np.uint32))


@pytest.mark.parametrize("zero", [None, 0, 7, 15])
def test_int4_on_every_code_of_a_word(assembly, rng, zero):
    zeros = None if zero is None else [jnp.zeros(1, jnp.int32)] * 4
    programs = assembly(widen.widen_int4, jnp.zeros((1, 2), jnp.uint16), zeros)
    raised = int(np.asarray(128 + (zero or 0), ml_dtypes.bfloat16).view(np.uint16))
    for word in rng.integers(0, 2**16, (64, 2)).astype(np.uint16):
        registers = {"$1": int(word.view(np.uint32)[0]), "$2": raised << 16 | raised}
        for code, program in enumerate(programs):
            got = ptx.halves(ptx.run(program, registers)["$0"])
            wanted = ((word >> 4 * code) & 15).astype(int) - (8 if zero is None else zero)
            np.testing.assert_array_equal(got, wanted)

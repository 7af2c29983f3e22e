"""Programs that are compiled at once share the memory of the device."""

import threading

import jax
import jax.numpy as jnp
import pytest

from jinfer.compilation.executables import Executables
from jinfer.compilation.program import Compilation, Program

OUT_OF_MEMORY = jax.errors.JaxRuntimeError(
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1.17GiB"
)
NUM_PROGRAMS = 3


def program(factor: int) -> Program:
    argument = jax.ShapeDtypeStruct((2,), jnp.float32)
    return Program(lambda x: x * factor, (argument,), (), jax.tree.structure(0), factor)


def compile_all(programs):
    compilation = Compilation(jax.devices("cpu")[0], None, None, None)
    return compilation.compile_all(programs, num_threads=len(programs), progress=False)


def test_a_program_that_others_leave_no_memory_is_compiled_after_them(monkeypatch):
    """Each is refused while another compiles, as where XLA times a product with a large weight."""
    begun, compile_one = threading.Barrier(NUM_PROGRAMS), Executables.compile
    attempts = []

    def compile_in_little_memory(self, traced, lowered):
        attempts.append(traced)
        if len(attempts) <= NUM_PROGRAMS:
            begun.wait()
            raise OUT_OF_MEMORY
        return compile_one(self, traced, lowered)

    monkeypatch.setattr(Executables, "compile", compile_in_little_memory)
    executables = compile_all({factor: program(factor) for factor in range(1, NUM_PROGRAMS + 1)})
    assert {factor: float(run(jnp.ones(2))[0]) for factor, run in executables.items()} == {1: 1, 2: 2, 3: 3}
    assert len(attempts) == 2 * NUM_PROGRAMS


def test_a_program_that_no_memory_is_enough_for_is_an_error(monkeypatch):
    def refuse(self, traced, lowered):
        raise OUT_OF_MEMORY

    monkeypatch.setattr(Executables, "compile", refuse)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        compile_all({1: program(1), 2: program(2)})

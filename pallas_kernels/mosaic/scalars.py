"""Arithmetic of indices in a kernel, without what Python's operators care for and a kernel does not."""

import jax.numpy as jnp
from jax import lax


def div(a, b: int):
    """a // b of a number that is not negative, which `//` would care for."""
    return lax.div(a, jnp.int32(b))


def rem(a, b: int):
    """a % b of a number that is not negative."""
    return lax.rem(a, jnp.int32(b))


def slot_and_phase(count, num_slots: int):
    """Where in a ring the count-th thing is, and the parity of its round."""
    return rem(count, num_slots), rem(div(count, num_slots), 2)


def as_int(condition):
    """1 or 0. By a selection: to convert a boolean, Mosaic asks the assembler for its version, which takes 20 ms."""
    return jnp.where(condition, jnp.int32(1), jnp.int32(0))


def when(condition):
    """`pl.when`, which would convert the condition."""

    def run(body):
        lax.switch(as_int(condition), [lambda: None, body])

    return run

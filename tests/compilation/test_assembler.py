"""A program is compiled again where XLA could not start its assembler."""

import jax
import jax.numpy as jnp
import pytest

from jinfer.compilation import assembler
from jinfer.compilation.options import compiled
from jinfer.placement import call_jitted

NOT_STARTED = jax.errors.JaxRuntimeError("INTERNAL: Failed to launch ptxas")


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(assembler.time, "sleep", lambda seconds: None)


def failing(errors, function):
    """`function`, which raises these errors first; each call takes one."""

    def call(*arguments, **options):
        if errors:
            raise errors.pop(0)
        return function(*arguments, **options)

    return call


def test_a_program_is_compiled_again(monkeypatch, caplog):
    errors = [NOT_STARTED, NOT_STARTED]
    lowered = jax.jit(lambda x: x + 1).lower(jnp.ones(2))
    monkeypatch.setattr(jax.stages.Lowered, "compile", failing(errors, jax.stages.Lowered.compile))
    assert compiled(lowered, None)(jnp.ones(2)).tolist() == [2, 2]
    assert errors == []
    assert caplog.text.count("could not start its assembler") == 2


def test_a_jitted_function_is_called_again():
    errors = [NOT_STARTED]
    assert call_jitted(failing(errors, jax.jit(lambda x: x + 1)), jnp.ones(2)).tolist() == [2, 2]
    assert errors == []


def test_it_is_given_up_in_the_end():
    errors = [NOT_STARTED] * 9
    with pytest.raises(jax.errors.JaxRuntimeError, match="Failed to launch ptxas"):
        call_jitted(failing(errors, abs), -1)
    assert len(errors) == 6


def test_other_errors_are_raised_at_once():
    errors = [jax.errors.JaxRuntimeError("INTERNAL: something else")] * 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        call_jitted(failing(errors, abs), -1)
    assert len(errors) == 1

"""Which implementation serves a call."""

import jax
import pytest

from pallas_kernels.selection import select, should_interpret


def test_auto_is_pallas_on_a_gpu_and_the_reference_elsewhere():
    assert select("auto") == ("pallas" if jax.default_backend() == "gpu" else "reference")
    assert select("pallas") == "pallas"
    assert select("reference") == "reference"


def test_an_unknown_implementation_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="'cuda' is unknown; choose one of 'auto', 'pallas', 'reference'"):
        select("cuda")


def test_interpret_mode_is_for_machines_without_a_gpu_unless_the_caller_decides():
    assert should_interpret(None) == (jax.default_backend() != "gpu")
    assert should_interpret(False) is False
    assert should_interpret(True) is True

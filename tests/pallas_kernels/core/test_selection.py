"""Which implementation serves a call."""

import jax
import pytest

from pallas_kernels.core.selection import UnsupportedError, select, should_interpret


def test_auto_is_pallas_on_a_gpu_and_the_reference_elsewhere():
    assert select("auto") == ("pallas" if jax.default_backend() == "gpu" else "reference")
    assert select("pallas") == "pallas"
    assert select("reference") == "reference"


def test_one_kernel_is_that_in_triton_and_one_form_in_jax_numpy_is_that_for_xla():
    assert (select("triton"), select("xla")) == ("pallas", "reference")
    with_both = ("pallas", "triton", "xla", "reference")
    assert (select("triton", with_both), select("xla", with_both)) == ("triton", "xla")
    assert select("auto", with_both) == ("pallas" if jax.default_backend() == "gpu" else "xla")


def test_an_unknown_implementation_is_an_error_that_lists_the_known_ones():
    with pytest.raises(
        ValueError,
        match="'cuda' is unknown; choose one of 'auto', 'pallas', 'triton', 'mosaic', 'jax-triton', 'xla', "
        "'reference'",
    ):
        select("cuda")


def test_an_implementation_that_an_operation_lacks_is_an_error_that_lists_what_it_has():
    with pytest.raises(
        UnsupportedError, match="no implementation 'jax-triton'; choose one of 'auto', 'pallas', 'reference'"
    ):
        select("jax-triton")
    assert select("jax-triton", available=("pallas", "jax-triton", "reference")) == "jax-triton"


def test_interpret_mode_is_for_machines_without_a_gpu_unless_the_caller_decides():
    assert should_interpret(None) == (jax.default_backend() != "gpu")
    assert should_interpret(False) is False
    assert should_interpret(True) is True


def test_what_is_traced_for_a_gpu_without_one_is_traced_as_with_one():
    described = jax.sharding.AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="gpu")
    with jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((1,), ("device",), abstract_device=described)
    ):
        assert select("auto") == "pallas"
        assert should_interpret(None) is False

"""The scales that are chosen make rounding hurt less."""

import numpy as np
import pytest

from jinfer.quantization.folds import Fold
from jinfer.quantization.layer_inputs import InputStatistics
from jinfer.quantization.scale_search import ActivationAwareSearch, smoothing_scales
from jinfer.quantization.schemes import Int4Scheme

FLOAT32 = np.dtype(np.float32)
FOLD = Fold("mlp/down", "mlp/gate_up")


def inputs_of(rows):
    return InputStatistics(np.abs(rows).mean(axis=0), np.abs(rows).max(axis=0), rows)


def output_error(kernel, rows, scales, scheme):
    rounded = scheme.rounded((kernel * scales[:, None]).T, FLOAT32).T / scales[:, None]
    return float(((rows @ (rounded - kernel)) ** 2).sum())


@pytest.fixture
def outliers():
    """Inputs of which a few are thirty times as large as the rest, and a kernel."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (200, 64)).astype(np.float32)
    rows[:, ::16] *= 30
    return rng.normal(0, 1, (64, 24)).astype(np.float32), rows


def test_inputs_that_are_large_are_protected(outliers):
    kernel, rows = outliers
    scheme = Int4Scheme(32)
    scales = ActivationAwareSearch(scheme, FLOAT32)(kernel, inputs_of(rows), FOLD)

    assert output_error(kernel, rows, scales, scheme) < output_error(kernel, rows, np.ones(64), scheme) / 2
    assert scales[::16].min() > np.delete(scales, np.s_[::16]).max()


def test_a_kernel_that_rounding_does_not_change_is_left(outliers):
    kernel = np.random.default_rng(1).integers(-7, 8, (64, 24)).astype(np.float32)
    kernel[::32] = 7.5  # so that the scale is one; it is rounded to 7, and has no inputs
    rows = outliers[1].copy()
    rows[:, ::32] = 0
    scales = ActivationAwareSearch(Int4Scheme(32), FLOAT32)(kernel, inputs_of(rows), FOLD)
    assert scales.tolist() == [1.0] * 64


def test_smoothing_gives_inputs_and_weights_the_same_range(outliers):
    kernel, rows = outliers
    scales = smoothing_scales(kernel, inputs_of(rows), FOLD)
    np.testing.assert_allclose(
        np.abs(rows / scales).max(axis=0), np.abs(kernel * scales[:, None]).max(axis=1), rtol=1e-4
    )

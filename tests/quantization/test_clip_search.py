"""Scales below what the largest weight asks for, where that brings the outputs nearer."""

import ml_dtypes
import numpy as np
import pytest

from jinfer.quantization.clip_search import RATIOS, ClipSearch
from jinfer.quantization.schemes import Int4Scheme
from jinfer.weights.rounding import integer_scales

BFLOAT16, FLOAT32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)
GROUP_SIZE = 32


def errors_of(w, rows, scheme, scale_dtype, ratios=1.0):
    """The squared error of each output's share from each group, [out, groups]."""
    change = (scheme.rounded(w, scale_dtype, ratios) - w).astype(np.float64)
    shares = np.einsum("ngi,ogi->nog", scheme.grouped(rows).astype(np.float64), scheme.grouped(change))
    return (shares**2).sum(axis=0)


def weight_and_rows(num_outputs, num_inputs, num_rows, seed=0):
    rng = np.random.default_rng(seed)
    w = rng.normal(0, 0.05, (num_outputs, num_inputs)).astype(np.float32)
    return w, rng.normal(0, 1, (num_rows, num_inputs)).astype(np.float32)


def test_an_outlier_that_is_never_read_is_cut_off():
    w, rows = weight_and_rows(5, 64, 100)
    w[2, 40], rows[:, 40] = 0.3, 0
    scheme = Int4Scheme(GROUP_SIZE)
    ratios = ClipSearch(scheme, FLOAT32).ratios(w, rows)

    clipped, whole = (errors_of(w, rows, scheme, FLOAT32, each) for each in (ratios, 1.0))
    assert ratios[2, 1] < 0.7
    assert clipped[2, 1] < whole[2, 1] / 2
    assert clipped.sum() < whole.sum() * 0.8


def test_an_outlier_that_is_read_is_kept():
    w, rows = weight_and_rows(5, 64, 100)
    w[2, 40] = -0.3
    rows[:, 40] *= 30
    assert ClipSearch(Int4Scheme(GROUP_SIZE), FLOAT32).ratios(w, rows)[2, 1] > 0.9


@pytest.mark.parametrize("scale_dtype", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize(
    ("num_outputs", "num_inputs", "num_rows"), [(1, 32, 1), (7, 96, 5), (33, 160, 77), (24, 64, 500)]
)
def test_no_group_is_worse_than_without(num_outputs, num_inputs, num_rows, scale_dtype):
    w, rows = weight_and_rows(num_outputs, num_inputs, num_rows, seed=num_rows)
    scheme = Int4Scheme(GROUP_SIZE)
    ratios = ClipSearch(scheme, scale_dtype).ratios(w, rows)

    clipped, whole = (errors_of(w, rows, scheme, scale_dtype, each) for each in (ratios, 1.0))
    assert ratios.shape == (num_outputs, num_inputs // GROUP_SIZE)
    assert (clipped <= whole * (1 + 1e-5)).all()  # the search sums in float32
    assert clipped.sum() < whole.sum()


def test_a_ratio_is_the_best_of_all_for_its_group():
    w, rows = weight_and_rows(6, 64, 50)
    scheme = Int4Scheme(GROUP_SIZE)
    of_each = np.array([errors_of(w, rows, scheme, FLOAT32, ratio) for ratio in RATIOS])
    ratios = ClipSearch(scheme, FLOAT32).ratios(w, rows)
    np.testing.assert_array_equal(ratios, np.array(RATIOS, np.float32)[of_each.argmin(axis=0)])


def test_groups_of_zeros_and_inputs_that_are_zero_keep_their_scale():
    w, rows = weight_and_rows(3, 64, 10)
    w[:, :32], rows[:, 32:] = 0, 0
    assert (ClipSearch(Int4Scheme(GROUP_SIZE), FLOAT32).ratios(w, rows) == 1).all()


def test_what_is_stored_has_the_scales_that_were_found():
    w, rows = weight_and_rows(6, 64, 50)
    scheme = Int4Scheme(GROUP_SIZE)
    search = ClipSearch(scheme, BFLOAT16)
    stored, ratios = search.quantize(w, rows), search.ratios(w, rows)

    expected = integer_scales(scheme.grouped(w) * ratios[..., None], 4, BFLOAT16)[..., 0]
    np.testing.assert_array_equal(stored["weight_scale"], expected)
    words = stored["weight_packed"].view(np.uint32)[..., None]
    codes = ((words >> (4 * np.arange(8, dtype=np.uint32))) & 15).reshape(w.shape).astype(np.float32) - 8
    scales = np.repeat(stored["weight_scale"].astype(np.float32), GROUP_SIZE, axis=1)
    np.testing.assert_array_equal(codes * scales, scheme.rounded(w, BFLOAT16, ratios))

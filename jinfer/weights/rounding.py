"""Floats as narrow numbers with scales, symmetric about zero: the same arithmetic for numpy and for
jax.numpy.

Weights are [out, in], as checkpoints have them. Scales are rounded to the dtype that they are stored in
before anything is divided by them, so that what is stored stands for exactly code * scale.
"""

from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float, Int

FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
FLOAT8_MAX = 448.0
"""The largest number of e4m3, beyond which a conversion gives NaN."""


def integer_scales(w: Float[Any, "*rows columns"], bits: int, scale_dtype: np.dtype) -> Float[Any, "*rows 1"]:
    """The scale of all that lies along the last axis: max|w| / ((2 ** bits - 1) / 2), as compressed-tensors
    has it; 1 where that is zero."""
    return _scales(w, (2**bits - 1) / 2, scale_dtype)


def float8_scales(w: Float[Any, "*rows columns"], scale_dtype: np.dtype) -> Float[Any, "*rows 1"]:
    """The scale of all that lies along the last axis: max|w| / 448; 1 where that is zero."""
    return _scales(w, FLOAT8_MAX, scale_dtype)


def rounded_integers(
    w: Float[Any, "*rows columns"], scales: Float[Any, "*rows 1"], bits: int
) -> Int[Any, "*rows columns"]:
    """round(w / scales) within the signed integers of `bits` bits, as int8; halves go to the even one."""
    xp = w.__array_namespace__()
    half = 2 ** (bits - 1)
    return xp.clip(xp.round(w / scales.astype(np.float32)), -half, half - 1).astype(np.int8)


def rounded_float8(
    w: Float[Any, "*rows columns"], scales: Float[Any, "*rows 1"]
) -> Float[Any, "*rows columns"]:
    """w / scales as e4m3."""
    xp = w.__array_namespace__()
    return xp.clip(w / scales.astype(np.float32), -FLOAT8_MAX, FLOAT8_MAX).astype(FLOAT8)


def _scales(w: Any, highest: float, scale_dtype: np.dtype) -> Any:
    xp = w.__array_namespace__()
    scales = (xp.max(xp.abs(w), axis=-1, keepdims=True) / np.float32(highest)).astype(scale_dtype)
    return xp.where(scales > 0, scales, xp.ones_like(scales))

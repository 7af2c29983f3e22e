"""The calibrated scales of keys and values that a quantized checkpoint may have: they become parameters where
the cache is of their type, and are left out and named elsewhere."""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from jinfer.entries import Entries, shown
from jinfer.errors import CheckpointError
from jinfer.weights.formats.stored_matrix import FLOATS, read_elements
from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.params import named, raise_faults
from jinfer.weights.safetensors_directory import TensorFiles
from jinfer.weights.tensor_source import StoredTensor

logger = logging.getLogger(__name__)

KV_SCALES = ("k_scale", "v_scale", "kv_scale")
"""The last parts of their names; `kv_scale` of older checkpoints is of keys and of values."""
OLD_KV_SCALES = ("k_proj.output_scale", "v_proj.output_scale")
CACHE_DTYPES = {("float", 8): "fp8_e4m3", ("int", 8): "int8"}
"""The `kv_cache_dtype` of a `kv_cache_scheme`, by its type and its bits."""
STRATEGIES = ("tensor", "attn_head")


@dataclass(frozen=True)
class KVScheme:
    """The `kv_cache_dtype` whose cache has the scales of a checkpoint; None where none has, with the
    reason."""

    kv_cache_dtype: str | None
    reason: str = ""

    @classmethod
    def read(cls, entries: Entries) -> "KVScheme":
        """The `kv_cache_scheme` of compressed-tensors. Raises UnsupportedModelError for what is malformed."""
        scheme = entries.object("kv_cache_scheme")
        if scheme is None:
            return cls(None, f"{entries.name} has no kv_cache_scheme")
        kind, bits = scheme.text("type", "int"), scheme.integer("num_bits", 8)
        strategy, is_symmetric = scheme.text("strategy", STRATEGIES[0]), scheme.switch("symmetric", True)
        is_static = scheme.raw.get("dynamic") in (None, False)
        if (kind, bits) in CACHE_DTYPES and strategy in STRATEGIES and is_symmetric and is_static:
            return cls(CACHE_DTYPES[kind, bits])
        return cls(
            None,
            f"{scheme.name} is {shown(dict(scheme.raw), 300)}, and scales are applied that are static and "
            f"symmetric, of 8 bits and strategy {' or '.join(STRATEGIES)}",
        )


def with_kv_scales(
    specs: ParamSpecs, files: TensorFiles, scheme: KVScheme, kv_cache_dtype: str
) -> tuple[ParamSpecs, TensorFiles]:
    """The parameters with the scales of keys and values, and the tensors with one for each KV head in their
    place; or both without any, which is said. Raises CheckpointError that names all that are missing or
    malformed."""
    stored = {name: tensor for name, tensor in files.tensors.items() if _is_kv_scale(name)}
    if not stored:
        return specs, files
    others = {name: tensor for name, tensor in files.tensors.items() if name not in stored}
    reason = scheme.reason
    if scheme.kv_cache_dtype not in (None, kv_cache_dtype):
        reason = f"kv_cache_dtype is {kv_cache_dtype!r}, and {scheme.kv_cache_dtype!r} would apply them"
    if reason:
        _say_not_applied(reason, stored)
        return specs, replace(files, tensors=others)
    names = {
        name: _stored_name(name, stored) for spec in specs.kv_scales.values() for name in spec.tensor_names()
    }
    scales = _scales_of_heads(specs, names, stored, str(files.origin))
    logger.info("the KV cache in %s has the calibrated scales of the checkpoint", kv_cache_dtype)
    _say_not_applied("the model has no use for them", stored.keys() - names.values())
    return specs.with_kv_scales(), replace(files, tensors={**others, **scales})


def _say_not_applied(reason: str, names: Iterable[str]) -> None:
    if names := sorted(names):
        logger.info("calibrated scales of the KV cache are not applied: %s: %s", reason, named(names))


def _is_kv_scale(name: str) -> bool:
    return name.rpartition(".")[2] in KV_SCALES or name.endswith(OLD_KV_SCALES)


def _stored_name(name: str, stored: Collection[str]) -> str | None:
    """The first of the names of a layer's scales that is stored."""
    module, _, leaf = name.rpartition(".")
    names = name, f"{module}.{leaf[0]}_proj.output_scale", f"{module}.kv_scale"
    return next((each for each in names if each in stored), None)


def _scales_of_heads(
    specs: ParamSpecs, names: Mapping[str, str | None], stored: Mapping[str, StoredTensor], origin: str
) -> dict[str, StoredTensor]:
    """The scales of each layer by the names that the model has for them, of which `names` are the stored
    ones."""
    scales: dict[str, StoredTensor] = {}
    faults: list[str] = []
    for spec in specs.kv_scales.values():
        for layer, tensor in ((layer, tensor) for layer in spec.layers for tensor in spec.tensors):
            name = tensor.name.format(layer=layer)
            found = names[name]
            if found is None:
                rule = "and other scales of the KV cache are there; leave kv_cache_dtype out"
                faults.append(f"{name} is missing, {rule}")
                continue
            try:
                scales[name] = _read(found, stored[found], tensor.num_columns)
            except CheckpointError as error:
                faults.append(str(error))
    raise_faults(faults, origin)
    return scales


def _read(name: str, tensor: StoredTensor, num_heads: int) -> "HeadScales":
    """The scales of a layer's keys or values. Raises CheckpointError."""
    size = tuple(side for side in tensor.shape if side != 1)
    if tensor.dtype_name not in FLOATS or size not in ((), (num_heads,)):
        raise CheckpointError(
            f"{name} has dtype {tensor.dtype_name} and shape {tensor.shape}, and must be a number in "
            f"{', '.join(FLOATS)}, or one for each of {num_heads} KV heads"
        )
    values = read_elements(tensor, 0, int(np.prod(tensor.shape))).astype(np.float32)
    if not (np.isfinite(values) & (values > 0)).all():
        raise CheckpointError(f"{name} has {shown(values.tolist())}, and scales must be finite and above 0")
    return HeadScales(np.broadcast_to(values, num_heads).copy())


class HeadScales(StoredTensor):
    """A float32 for each head."""

    dtype_name = "F32"

    def __init__(self, values: np.ndarray) -> None:
        self.shape = values.shape
        self.num_bytes = values.nbytes
        self._values = values

    @property
    def dtype(self) -> np.dtype:
        return self._values.dtype

    def read_rows(self, first_row: int, out: np.ndarray) -> None:
        self.read_bytes(first_row * self.dtype.itemsize, out)

    def read_bytes(self, first: int, out: np.ndarray) -> None:
        out[:] = self._values.view(np.uint8)[first : first + len(out)]

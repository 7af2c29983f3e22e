"""compressed-tensors: integers, e4m3 or mxfp4, packed or plain, with a scheme for each group of modules."""

from dataclasses import dataclass

import numpy as np

from jinfer.entries import Entries
from jinfer.errors import UnsupportedModelError
from jinfer.weights.formats.checkpoint_format import WEIGHT, CheckpointFormat
from jinfer.weights.formats.dequantized_tensor import DequantizedTensor, Grouping, InputArgs, Scales
from jinfer.weights.formats.entries import REMEDY, check_one_of
from jinfer.weights.formats.kv_scales import KVScheme
from jinfer.weights.formats.module_targets import ModuleTargets
from jinfer.weights.formats.module_tensors import ModuleTensors, shapes_of
from jinfer.weights.formats.mxfp4 import mxfp4_tensor
from jinfer.weights.formats.quant_args import INT, QuantArgs, read_activations
from jinfer.weights.formats.stored_matrix import (
    FLOAT8,
    INT8,
    INT32,
    UINT8,
    PackedMatrix,
    PlainMatrix,
    RowPackedMatrix,
    StoredMatrix,
    num_words,
)
from pallas_kernels.core.weights import Activations
from pallas_kernels.core.weights.mxfp4 import MXFP4_GROUP

PACK, MXFP4 = "pack-quantized", "mxfp4-pack-quantized"
FORMATS = (PACK, "int-quantized", "float-quantized", "naive-quantized", MXFP4)
MIXED, DENSE = "mixed-precision", "dense"
PACKED, SCALE, ZERO_POINT, GROUPS = "weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx"
SHAPE, INPUT_SCALE = "weight_shape", "input_scale"
UNUSED_GROUPS = -1  # what a `weight_g_idx` holds that nobody filled


@dataclass(frozen=True)
class ModuleGroup:
    """The modules of one scheme."""

    targets: ModuleTargets
    format: str
    weights: QuantArgs | None
    activations: Activations = "float"

    @classmethod
    def read(cls, entries: Entries, default_format: str) -> "ModuleGroup":
        """One of `config_groups`. Raises UnsupportedModelError."""
        stored_as = entries.text("format", default_format)
        weights = entries.object("weights")
        if weights is not None:
            check_one_of(entries, "format", stored_as, (*FORMATS, DENSE))
        read = QuantArgs.read_mxfp4 if stored_as == MXFP4 else QuantArgs.read
        args = None if weights is None else read(weights)
        return cls(ModuleTargets.read(entries, "targets"), stored_as, args, read_activations(entries, args))


@dataclass(frozen=True)
class CompressedTensors(CheckpointFormat):
    """W[n, k] = (q[n, k] - z) * s, with the scale and the zero point of the tensor, the row, the group of
    columns or the block."""

    groups: tuple[ModuleGroup, ...]
    ignored: ModuleTargets
    kv_scheme: KVScheme

    parts = frozenset({WEIGHT, PACKED, SCALE, ZERO_POINT, GROUPS, SHAPE, INPUT_SCALE})
    not_applied = frozenset(
        {
            *("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point"),
            *("q_scale", "k_zero_point", "v_zero_point"),
        }
    )

    @classmethod
    def read(cls, entries: Entries) -> "CompressedTensors":
        """The format of a `quantization_config`."""
        _check_is_quantized_alone(entries)
        stored_as = entries.text("format", DENSE)
        check_one_of(entries, "format", stored_as, (*FORMATS, MIXED, DENSE))
        groups = entries.object("config_groups")
        if groups is None and entries.object("kv_cache_scheme") is None:
            entries.refuse("config_groups", "it must be an object with the schemes of modules")
        found = [] if groups is None else [groups.object(name) for name in groups.raw]
        return cls(
            tuple(ModuleGroup.read(group, stored_as) for group in found if group is not None),
            ModuleTargets.read(entries, "ignore"),
            KVScheme.read(entries),
        )

    @property
    def title(self) -> str:
        kinds = {f"{group.weights.bits}-bit {group.weights.kind}" for group in self.groups if group.weights}
        return f"compressed-tensors ({', '.join(sorted(kinds)) or 'not quantized'})"

    def weight(self, module: ModuleTensors) -> DequantizedTensor | None:
        if PACKED not in module and module.dtype_name(WEIGHT) not in (INT8, FLOAT8):
            return None
        group = self._group_of(module)
        if group.weights is None or group.format == DENSE:
            raise module.refuse("is stored quantized, and its group of config_groups has no weights that are")
        if group.format == PACK:
            return _packed(module, group.weights)
        if group.format == MXFP4:
            return _mxfp4(module)
        return _plain(module, group.weights, module.input_args(group.activations, INPUT_SCALE))

    def _group_of(self, module: ModuleTensors) -> ModuleGroup:
        """The group that names the module most closely, the first of several."""
        if self.ignored.rank(module.name) is not None:
            raise module.refuse("is stored quantized, and `ignore` names it; correct one of them")
        ranks = [(group.targets.rank(module.name), group) for group in self.groups]
        found = [(rank, group) for rank, group in ranks if rank is not None]
        if not found:
            raise module.refuse("is stored quantized, and no `targets` of config_groups name it; add it")
        return min(found, key=lambda pair: pair[0])[1]


def _check_is_quantized_alone(entries: Entries) -> None:
    """Refuses what a checkpoint may be beside quantized."""
    sparsity = entries.object("sparsity_config")
    if sparsity is not None:
        check_one_of(sparsity, "format", sparsity.text("format", DENSE), [DENSE])
    transforms = entries.object("transform_config")
    if transforms is not None and transforms.object("config_groups") is not None:
        raise UnsupportedModelError(
            f"{entries.name} has transform_config: weights are multiplied with matrices that jinfer does not "
            f"apply; {REMEDY}"
        )


def _packed(module: ModuleTensors, args: QuantArgs) -> DequantizedTensor:
    """Integers in words along the input features, stored as unsigned ones: the zero is in the middle."""
    num_rows, num_columns = (int(size) for size in module.integers(SHAPE, (2,)))
    shape = num_rows, num_columns
    if min(shape) < 1:
        raise module.refuse(f"has {SHAPE} {list(shape)}, which must be two sizes from 1 on")
    words = module.tensor(PACKED, (INT32,), (num_rows, num_words(num_columns, args.bits)))
    grouping = _grouping(module, args, shape)
    middle = 2 ** (args.bits - 1)
    zeros: StoredMatrix | int = middle
    if not args.is_symmetric:
        zeros = _packed_zeros(module, args, grouping.shape, middle)
    scales = Scales(module.scales(SCALE, grouping.shape), grouping, zeros)
    return DequantizedTensor(PackedMatrix(words, shape, args.bits), scales, is_turned=False)


def _mxfp4(module: ModuleTensors) -> DequantizedTensor:
    """Two codes in each byte along the input features."""
    codes = module.matrix(PACKED, (UINT8,))
    shape = codes.shape[0], 2 * codes.shape[1]
    scales = module.tensor(SCALE, (UINT8,), (shape[0], -(-shape[1] // MXFP4_GROUP)))
    return mxfp4_tensor(codes, scales, shape, module.full_name(SCALE))


def _packed_zeros(
    module: ModuleTensors, args: QuantArgs, shape: tuple[int, int], middle: int
) -> StoredMatrix:
    """Zero points packed along the output features; old releases have them signed, a byte each."""
    if module.dtype_name(ZERO_POINT) == INT8:
        return PlainMatrix(module.tensor(ZERO_POINT, (INT8,), *shapes_of(shape)), shape, added=middle)
    packed_shape = num_words(shape[0], args.bits), shape[1]
    return RowPackedMatrix(module.tensor(ZERO_POINT, (INT32,), packed_shape), shape, args.bits)


def _plain(module: ModuleTensors, args: QuantArgs, activations: InputArgs) -> DequantizedTensor:
    """An int8 or an e4m3 for each element."""
    stored = module.matrix(WEIGHT, (INT8,) if args.kind == INT else (FLOAT8,))
    shape = stored.shape[0], stored.shape[1]
    grouping = _grouping(module, args, shape)
    zeros: StoredMatrix | int = 0
    if not args.is_symmetric:
        tensor = module.tensor(ZERO_POINT, (stored.dtype_name,), *shapes_of(grouping.shape))
        zeros = PlainMatrix(tensor, grouping.shape)
    scales = Scales(module.scales(SCALE, grouping.shape), grouping, zeros)
    return DequantizedTensor(PlainMatrix(stored, shape), scales, is_turned=False, activations=activations)


def _grouping(module: ModuleTensors, args: QuantArgs, shape: tuple[int, int]) -> Grouping:
    grouping = Grouping.of_blocks(shape, args.block_of(shape))
    if GROUPS not in module and not args.is_reordered:
        return grouping
    stored = module.integers(GROUPS, (shape[1],))
    if np.all(stored == UNUSED_GROUPS):
        return grouping
    groups = module.group_indices(GROUPS, shape[1], grouping.shape[1])
    return grouping.with_groups(groups, axis=1)

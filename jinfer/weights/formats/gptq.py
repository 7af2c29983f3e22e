"""GPTQ, as AutoGPTQ and GPTQModel pack it (`checkpoint_format` "gptq" and "gptq_v2")."""

import re
from dataclasses import dataclass

import numpy as np

from jinfer.entries import Entries
from jinfer.weights.formats.checkpoint_format import CheckpointFormat
from jinfer.weights.formats.dequantized_tensor import DequantizedTensor, Grouping, Scales
from jinfer.weights.formats.entries import check_one_of, compiled, read_group_size
from jinfer.weights.formats.module_tensors import ModuleTensors
from jinfer.weights.formats.stored_matrix import INT32, WORD_BITS, PackedMatrix, RowPackedMatrix, num_words

BITS = (4, 8)
ADDED_TO_ZEROS = {"gptq": 1, "gptq_v2": 0}  # the first version stores zero points less one
EXCLUDED, INCLUDED = "-:", "+:"


@dataclass(frozen=True)
class GptqScheme:
    """The packing of a module. With `is_reordered`, its input features are in groups that `g_idx` names."""

    bits: int
    group_size: int | None
    is_reordered: bool

    @classmethod
    def read(cls, entries: Entries, default: "GptqScheme") -> "GptqScheme":
        """The scheme of entries, and for what they lack of a default."""
        bits = entries.integer("bits", default.bits)
        check_one_of(entries, "bits", bits, BITS)
        entries.switch("sym", True)  # the zero points are stored either way
        group_size = default.group_size
        if entries.has("group_size"):
            group_size = read_group_size(entries, "group_size", None)
        return cls(bits, group_size, entries.switch("desc_act", default.is_reordered))


DEFAULTS = GptqScheme(bits=4, group_size=128, is_reordered=True)
"""AutoGPTQ's own, for files that lack an entry."""
Dynamic = tuple[tuple[re.Pattern[str], GptqScheme | None], ...]
"""The schemes of modules whose names a pattern matches, None for those that are not quantized. The first that
matches counts."""


@dataclass(frozen=True)
class Gptq(CheckpointFormat):
    """Integers along the input features: W[n, k] = (q[k, n] - z[g_idx[k], n]) * s[g_idx[k], n]."""

    scheme: GptqScheme
    added_to_zeros: int
    dynamic: Dynamic

    parts = frozenset({"qweight", "qzeros", "scales", "g_idx"})

    @classmethod
    def read(cls, entries: Entries) -> "Gptq":
        """The format of a `quantization_config`, or of a quantize_config.json."""
        name = "checkpoint_format" if entries.has("checkpoint_format") else "format"
        version = entries.text(name, "gptq")
        check_one_of(entries, name, version, ADDED_TO_ZEROS)
        check_one_of(entries, "is_marlin_format", entries.switch("is_marlin_format", False), [False])
        check_one_of(entries, "pack_dtype", entries.text("pack_dtype", "int32"), ["int32"])
        entries.require("bits")
        scheme = GptqScheme.read(entries, DEFAULTS)
        return cls(scheme, ADDED_TO_ZEROS[version], _read_dynamic(entries, scheme))

    @property
    def title(self) -> str:
        return f"{self.scheme.bits}-bit GPTQ"

    def weight(self, module: ModuleTensors) -> DequantizedTensor | None:
        if "qweight" not in module:
            return None
        scheme = self._scheme_of(module.name)
        if scheme is None:
            raise module.refuse("is stored as GPTQ, and `dynamic` leaves it out; correct one of them")
        qweight = module.matrix("qweight", (INT32,))
        shape = (qweight.shape[0] * WORD_BITS // scheme.bits, qweight.shape[1])
        groups = _grouping(module, scheme, shape)
        stored = module.tensor("qzeros", (INT32,), (groups.shape[0], num_words(shape[1], scheme.bits)))
        zeros = PackedMatrix(stored, groups.shape, scheme.bits, added=self.added_to_zeros)
        scales = Scales(module.scales("scales", groups.shape), groups, zeros)
        return DequantizedTensor(RowPackedMatrix(qweight, shape, scheme.bits), scales, is_turned=True)

    def _scheme_of(self, name: str) -> GptqScheme | None:
        for pattern, scheme in self.dynamic:
            if pattern.match(name):
                return scheme
        return self.scheme


def _grouping(module: ModuleTensors, scheme: GptqScheme, shape: tuple[int, int]) -> Grouping:
    """The groups of input features, in the order of `g_idx` where there is one."""
    in_order = Grouping.of_blocks(shape, (scheme.group_size or shape[0], 1))
    if "g_idx" not in module and not scheme.is_reordered:
        return in_order
    groups = module.group_indices("g_idx", shape[0], in_order.shape[0])
    if not scheme.is_reordered and not np.array_equal(groups, in_order.row_groups):
        raise module.refuse("has a g_idx in another order than k // group_size, and desc_act is false")
    return in_order.with_groups(groups, axis=0)


def _read_dynamic(entries: Entries, scheme: GptqScheme) -> Dynamic:
    dynamic = entries.object("dynamic")
    return () if dynamic is None else tuple(_read_rule(dynamic, key, scheme) for key in dynamic.raw)


def _read_rule(dynamic: Entries, key: str, scheme: GptqScheme) -> tuple[re.Pattern[str], GptqScheme | None]:
    overrides = dynamic.object(key)
    own = scheme if overrides is None else GptqScheme.read(overrides, scheme)
    pattern = compiled(dynamic, key.removeprefix(EXCLUDED).removeprefix(INCLUDED))
    return pattern, None if key.startswith(EXCLUDED) else own

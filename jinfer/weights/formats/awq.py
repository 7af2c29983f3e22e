"""AWQ, as AutoAWQ packs it for products of many rows (`version` "gemm")."""

from dataclasses import dataclass

from jinfer.entries import Entries
from jinfer.weights.formats.checkpoint_format import CheckpointFormat, lists
from jinfer.weights.formats.dequantized_tensor import DequantizedTensor, Grouping, Scales
from jinfer.weights.formats.entries import check_one_of, read_group_size
from jinfer.weights.formats.module_tensors import ModuleTensors
from jinfer.weights.formats.stored_matrix import INT32, PackedMatrix

BITS, PER_WORD = 4, 8
ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # 0, 1, ..., 7 side by side are the word 0x75316420
MIDDLE = 8  # the zero of a checkpoint without zero points


@dataclass(frozen=True)
class Awq(CheckpointFormat):
    """Four bits along the output features: W[n, k] = (q[k, n] - z[k // group_size, n]) * s[k // group_size,
    n]."""

    group_size: int | None
    has_zero_points: bool
    not_converted: tuple[str, ...]

    parts = frozenset({"qweight", "qzeros", "scales"})

    @classmethod
    def read(cls, entries: Entries) -> "Awq":
        """The format of a `quantization_config`, or of a quant_config.json."""
        bits = entries.integer("bits", entries.integer("w_bit", BITS))
        check_one_of(entries, "bits", bits, [BITS])
        check_one_of(entries, "version", entries.text("version", "gemm").lower(), ["gemm"])
        name = "q_group_size" if entries.has("q_group_size") else "group_size"
        return cls(
            read_group_size(entries, name, 128),
            entries.switch("zero_point", True),
            entries.texts("modules_to_not_convert") or (),
        )

    @property
    def title(self) -> str:
        return "4-bit AWQ"

    def weight(self, module: ModuleTensors) -> DequantizedTensor | None:
        if "qweight" not in module:
            return None
        if lists(self.not_converted, module.name):
            raise module.refuse("is stored as AWQ, and modules_to_not_convert names it; correct one of them")
        qweight = module.matrix("qweight", (INT32,))
        num_inputs, num_words = qweight.shape
        group_size = self.group_size or num_inputs
        if num_inputs % group_size:
            raise module.refuse(f"has {num_inputs} input features, no multiple of group_size {group_size}")
        shape = (num_inputs, num_words * PER_WORD)
        groups = Grouping.of_blocks(shape, (group_size, 1))
        zeros: PackedMatrix | int = MIDDLE
        if self.has_zero_points or "qzeros" in module:
            stored = module.tensor("qzeros", (INT32,), (groups.shape[0], num_words))
            zeros = PackedMatrix(stored, groups.shape, BITS, ORDER)
        scales = Scales(module.scales("scales", groups.shape), groups, zeros)
        return DequantizedTensor(PackedMatrix(qweight, shape, BITS, ORDER), scales, is_turned=True)

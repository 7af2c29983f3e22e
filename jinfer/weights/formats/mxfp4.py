"""mxfp4, as gpt-oss stores its experts: e2m1 with a power of two for each 32 input features.

The numbers are those of the Open Compute Project's "Microscaling Formats (MX) Specification" 1.0 (2023).
"""

import math
import re
from dataclasses import dataclass

from jinfer.entries import Entries
from jinfer.weights.formats.checkpoint_format import WEIGHT, CheckpointFormat
from jinfer.weights.formats.dequantized_tensor import DequantizedStack, DequantizedTensor, Grouping, Scales
from jinfer.weights.formats.entries import compiled
from jinfer.weights.formats.module_tensors import ModuleTensors
from jinfer.weights.formats.stored_matrix import UINT8, Float4Matrix, Power8Matrix
from jinfer.weights.kernel_types import KernelType, Mxfp4Kernel
from jinfer.weights.tensor_source import StoredTensor
from pallas_kernels.core.weights.mxfp4 import MXFP4_GROUP

BLOCKS, SCALES = "blocks", "scales"
BLOCK_BYTES = MXFP4_GROUP // 2


@dataclass(frozen=True)
class Mxfp4(CheckpointFormat):
    """Parameters that are stored as `<name>_blocks` [..., out, in / 32, 16] and `<name>_scales` [..., out, in
    / 32], both of bytes. A byte of blocks has two numbers, the first in its lower four bits.

    A matrix is the weight of a Linear, [out, in]. A stack of them is [..., in, out], as transformers has the
    experts of gpt-oss in floats.
    """

    not_converted: tuple[re.Pattern[str], ...]

    parts = frozenset({BLOCKS, SCALES})
    joint = "_"

    @classmethod
    def read(cls, entries: Entries) -> "Mxfp4":
        """The format of a `quantization_config`. Entries of `modules_to_not_convert` are what transformers
        takes them for: an expression that matches a module's name from its beginning to the end of a part, or
        a text that the name ends with. Raises UnsupportedModelError."""
        given = entries.texts("modules_to_not_convert") or ()
        beginnings = [compiled(entries, rf"(?:{text})(?:(?<=\.)|(?=\.|$))") for text in given]
        ends = [re.compile(rf".*{re.escape(text)}$") for text in given]
        return cls((*beginnings, *ends))

    @property
    def title(self) -> str:
        return "mxfp4"

    def float_name(self, module: str) -> str:
        return module

    def kernel_type(self, module: str) -> KernelType | None:
        return None if self._leaves(module) else Mxfp4Kernel()

    def weight(self, module: ModuleTensors) -> StoredTensor | None:
        if BLOCKS not in module:
            return None
        if self._leaves(module.name.removesuffix(f".{WEIGHT}")):
            raise module.refuse(
                "is stored as mxfp4, and modules_to_not_convert names it; correct one of them"
            )
        blocks = module.blocks(BLOCKS, (UINT8,), BLOCK_BYTES)
        *leading, num_out, num_groups, _ = blocks.shape
        scales = module.tensor(SCALES, (UINT8,), blocks.shape[:-1])
        shape = math.prod(leading) * num_out, num_groups * MXFP4_GROUP
        rows = mxfp4_tensor(blocks, scales, shape, module.full_name(SCALES))
        return DequantizedStack(rows, tuple(leading)) if leading else rows

    def _leaves(self, module: str) -> bool:
        """True of a module that is not converted."""
        return any(pattern.match(module) for pattern in self.not_converted)


def mxfp4_tensor(
    codes: StoredTensor, scales: StoredTensor, shape: tuple[int, int], name_of_scales: str
) -> DequantizedTensor:
    """The weight [out, in] of bytes of two codes and bytes of scales, in the order of its rows."""
    grouping = Grouping.of_blocks(shape, (1, MXFP4_GROUP))
    powers = Power8Matrix(scales, grouping.shape, name_of_scales)
    return DequantizedTensor(Float4Matrix(codes, shape), Scales(powers, grouping), is_turned=False)

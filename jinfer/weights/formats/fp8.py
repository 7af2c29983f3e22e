"""fp8 of Hugging Face, DeepSeek and AutoFP8: e4m3 with a scale for each block, or one for a tensor."""

from dataclasses import dataclass

from jinfer.entries import Entries
from jinfer.weights.formats.checkpoint_format import WEIGHT, CheckpointFormat, lists
from jinfer.weights.formats.dequantized_tensor import DequantizedTensor, Grouping, Scales
from jinfer.weights.formats.entries import check_one_of, read_block
from jinfer.weights.formats.kv_scales import KVScheme
from jinfer.weights.formats.module_tensors import ModuleTensors
from jinfer.weights.formats.stored_matrix import FLOAT8, PlainMatrix
from jinfer.weights.kernel_types import BlockFp8Kernel, Fp8Kernel, KernelType
from pallas_kernels.core.weights import Activations
from pallas_kernels.core.weights.fp8 import BLOCK_SIZE

INPUT_SCALE = "input_scale"
BLOCK_SCALE, SCALE = "weight_scale_inv", "weight_scale"  # both multiply, whatever the first is called


@dataclass(frozen=True)
class Fp8(CheckpointFormat):
    """W[n, k] = w[n, k] * s[n // rows, k // columns] for blocks of [rows, columns], or w[n, k] * s."""

    block: tuple[int, int] | None
    not_converted: tuple[str, ...]
    activations: Activations

    parts = frozenset({WEIGHT, BLOCK_SCALE, SCALE, INPUT_SCALE})
    not_applied = frozenset({"input_scale", "output_scale"})
    kv_scheme = KVScheme("fp8_e4m3")

    @classmethod
    def read(cls, entries: Entries) -> "Fp8":
        """The format of a `quantization_config`."""
        check_one_of(entries, "fmt", entries.text("fmt", "e4m3"), ["e4m3"])
        activations = entries.text("activation_scheme", "dynamic")
        check_one_of(entries, "activation_scheme", activations, ["dynamic", "static"])
        not_converted = entries.texts("modules_to_not_convert") or ()
        ignored = entries.texts("ignored_layers") or ()  # the name of AutoFP8
        kind: Activations = "static" if activations == "static" else "dynamic"
        return cls(read_block(entries, "weight_block_size"), not_converted + ignored, kind)

    @property
    def title(self) -> str:
        return "fp8"

    def kernel_type(self, module: str) -> KernelType | None:
        if lists(self.not_converted, module):
            return None
        if self.block == (BLOCK_SIZE, BLOCK_SIZE):
            return BlockFp8Kernel("dynamic")
        return Fp8Kernel("dynamic") if self.block is None else None

    def weight(self, module: ModuleTensors) -> DequantizedTensor | None:
        if module.dtype_name(WEIGHT) != FLOAT8:
            return None
        if lists(self.not_converted, module.name):
            raise module.refuse("is stored in fp8, and modules_to_not_convert names it; correct one of them")
        stored = module.matrix(WEIGHT, (FLOAT8,))
        shape = (stored.shape[0], stored.shape[1])
        name = BLOCK_SCALE if self.block is not None or BLOCK_SCALE in module else SCALE
        grouping = Grouping.of_blocks(shape, self.block or shape)
        scales = Scales(module.scales(name, grouping.shape), grouping)
        activations = module.input_args(self.activations, INPUT_SCALE)
        return DequantizedTensor(PlainMatrix(stored, shape), scales, is_turned=False, activations=activations)

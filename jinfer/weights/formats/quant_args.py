"""The numbers of a tensor, as compressed-tensors describes them (`weights` of a group)."""

from dataclasses import dataclass

from jinfer.entries import Entries
from jinfer.weights.formats.entries import check_one_of, read_block, read_group_size
from pallas_kernels.core.weights import Activations
from pallas_kernels.core.weights.mxfp4 import MXFP4_GROUP

INT, FLOAT = "int", "float"
BYTES = "torch.uint8"
TENSOR, CHANNEL, GROUP, BLOCK = "tensor", "channel", "group", "block"
ORDERED_BY = {"group": True, "dynamic": True, "weight": False, "static": False}
"""The values of `actorder`, and whether the groups are stored in an order of their own."""


@dataclass(frozen=True)
class QuantArgs:
    """The weights of a group of modules. With `is_reordered`, the group of each input feature is stored."""

    bits: int
    kind: str
    is_symmetric: bool
    strategy: str
    group_size: int | None
    block: tuple[int, int] | None
    is_reordered: bool

    @classmethod
    def read(cls, entries: Entries) -> "QuantArgs":
        """The `weights` of a group. Raises UnsupportedModelError."""
        kind = entries.text("type", INT)
        check_one_of(entries, "type", kind, [INT, FLOAT])
        bits = entries.integer("num_bits", 8)
        check_one_of(entries, "num_bits", bits, [8] if kind == FLOAT else [4, 8])
        block = read_block(entries, "block_structure")
        strategy = entries.text("strategy", _implied_strategy(entries, block))
        check_one_of(entries, "strategy", strategy, [TENSOR, CHANNEL, GROUP, BLOCK])
        if strategy == BLOCK:
            entries.require("block_structure")
        group_size = None
        if strategy == GROUP:
            entries.require("group_size")
            group_size = read_group_size(entries, "group_size", None)
        is_symmetric = entries.switch("symmetric", True)
        return cls(bits, kind, is_symmetric, strategy, group_size, block, _is_reordered(entries))

    @classmethod
    def read_mxfp4(cls, entries: Entries) -> "QuantArgs":
        """The `weights` of a group in mxfp4, all of whose numbers its name says. Raises UnsupportedModelError
        for others."""
        check_one_of(entries, "type", entries.text("type", FLOAT), [FLOAT])
        check_one_of(entries, "num_bits", entries.integer("num_bits", 4), [4])
        check_one_of(entries, "strategy", entries.text("strategy", GROUP), [GROUP])
        check_one_of(entries, "group_size", entries.integer("group_size", MXFP4_GROUP), [MXFP4_GROUP])
        check_one_of(entries, "symmetric", entries.switch("symmetric", True), [True])
        check_one_of(entries, "scale_dtype", entries.text("scale_dtype", BYTES), [BYTES])
        check_one_of(entries, "actorder", _is_reordered(entries), [False])
        return cls(4, FLOAT, True, GROUP, MXFP4_GROUP, None, False)

    def block_of(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The rows and columns that share a scale, of a weight [out, in]."""
        if self.strategy == TENSOR:
            return shape
        if self.block is not None and self.strategy == BLOCK:
            return self.block
        return 1, self.group_size or shape[1]


def read_activations(group: Entries, weights: "QuantArgs | None") -> Activations:
    """The way in which the modules of a group treat their activations.

    Those that are of other codes than the weights, or have zero points, stay floats: that is more accurate.
    """
    entries = group.object("input_activations")
    if entries is None or weights is None or weights.bits != 8:
        return "float"
    is_alike = entries.text("type", INT) == weights.kind and entries.integer("num_bits", 8) == 8
    if not is_alike or not entries.switch("symmetric", True):
        return "float"
    return "dynamic" if entries.raw.get("dynamic") else "static"


def _implied_strategy(entries: Entries, block: tuple[int, int] | None) -> str:
    if block is not None:
        return BLOCK
    if not entries.has("group_size"):
        return TENSOR
    return CHANNEL if read_group_size(entries, "group_size", None) is None else GROUP


def _is_reordered(entries: Entries) -> bool:
    """`actorder`: old releases have true for "group"."""
    given = entries.raw.get("actorder")
    if isinstance(given, bool):
        return given
    order = entries.text("actorder", "weight").lower()
    check_one_of(entries, "actorder", order, ORDERED_BY)
    return ORDERED_BY[order]

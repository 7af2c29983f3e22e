"""Ways in which a product with quantized weights treats its activations."""

from typing import Literal

# "float": nothing, the weights become floats (W8A16, W4A16). "dynamic": each row is quantized by its own
# largest magnitude, or each group of a row. "static": all by one scale, which was calibrated before.
Activations = Literal["float", "dynamic", "static"]

STATIC = {"static": True}  # of a field that is no array: it belongs to the structure of the pytree

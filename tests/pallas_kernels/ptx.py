"""A few of the assembler's instructions in numpy, on registers of 32 bits: enough to run what widens weights.

run("prmt.b32 a, $1, 0, 0x4140; sub.rn.bf16x2 $0, a, m;", {"$1": 0x04030201, "m": ...}) -> {"$0": ...}
"""

from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np


def run(assembly: str, registers: Mapping[str, int]) -> dict[str, int]:
    """All registers after the instructions. A declaration is passed over."""
    state = dict(registers)
    for instruction in assembly.strip("{} ").split(";"):
        name, _, rest = instruction.strip().partition(" ")
        if name in ("", ".reg"):
            continue
        target, *sources = (part.strip() for part in rest.split(","))
        values = [state[s] if s in state else int(s, 0) for s in sources]
        state[target] = INSTRUCTIONS[name](*values)
    return state


def permuted_bytes(a: int, b: int, selector: int) -> int:
    """prmt: byte i of the result is that of [a, b] that the selector's digit i says."""
    source = [(a >> shift) & 255 for shift in range(0, 32, 8)] + [
        (b >> shift) & 255 for shift in range(0, 32, 8)
    ]
    return sum(source[(selector >> (4 * i)) & 7] << (8 * i) for i in range(4))


def of_three(a: int, b: int, c: int, table: int) -> int:
    """lop3: bit by bit, the bit of the table that those of a, b and c say."""
    bits = [4 * ((a >> i) & 1) + 2 * ((b >> i) & 1) + ((c >> i) & 1) for i in range(32)]
    return sum(((table >> bit) & 1) << i for i, bit in enumerate(bits))


def halves(register: int) -> np.ndarray:
    """The two bfloat16 of a register, the lower first, as float32."""
    return (
        np.asarray([register & 0xFFFF, register >> 16], np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    )


def _of_halves(operation: Callable) -> Callable[[int, int], int]:
    def instruction(a: int, b: int) -> int:
        low, high = operation(halves(a), halves(b)).astype(ml_dtypes.bfloat16).view(np.uint16)
        return int(low) | int(high) << 16

    return instruction


INSTRUCTIONS: Mapping[str, Callable[..., int]] = {
    "mov.b32": lambda a: a,
    "shr.u32": lambda a, b: a >> b,
    "shl.b32": lambda a, b: (a << b) & 0xFFFFFFFF,
    "and.b32": lambda a, b: a & b,
    "prmt.b32": permuted_bytes,
    "lop3.b32": of_three,
    "sub.rn.bf16x2": _of_halves(np.subtract),
    "mul.rn.bf16x2": _of_halves(np.multiply),
}

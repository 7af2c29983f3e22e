"""Which implementation of an operation serves a call."""

import logging
from collections.abc import Collection
from typing import Literal, get_args

from pallas_kernels.device import targets_a_gpu

Available = Literal["pallas", "mosaic", "jax-triton", "reference"]
Implementation = Literal["auto", Available]

EVERY_OPERATION_HAS: tuple[Available, ...] = ("pallas", "reference")

logger = logging.getLogger(__name__)


class UnsupportedError(NotImplementedError):
    """The chosen implementation cannot serve this call; the message says why and what can."""


def select(implementation: Implementation, available: Collection[Available] = EVERY_OPERATION_HAS) -> Available:
    """`"auto"` is `"pallas"` on a GPU and `"reference"` elsewhere; anything else is what the caller asked for.

    Raises UnsupportedError where the operation has no such implementation among its `available` ones.
    """
    if implementation not in get_args(Implementation):
        known = ", ".join(map(repr, get_args(Implementation)))
        raise ValueError(f"implementation={implementation!r} is unknown; choose one of {known}")
    if implementation == "auto":
        return "pallas" if targets_a_gpu() else "reference"
    if implementation not in available:
        choices = ", ".join(map(repr, ("auto", *available)))
        raise UnsupportedError(f"this operation has no implementation {implementation!r}; choose one of {choices}")
    return implementation


def should_interpret(interpret: bool | None) -> bool:
    """Pallas kernels run in interpret mode where they are not traced for a GPU, unless the caller decides."""
    if interpret is not None:
        return interpret
    if targets_a_gpu():
        return False
    logger.debug("no GPU: the Pallas kernel runs in interpret mode, which is slow and meant for tests")
    return True

"""The choice of the implementation that serves a call."""

import logging
from collections.abc import Collection, Mapping
from typing import Literal, get_args

from pallas_kernels.core.device import targets_a_gpu

Available = Literal["pallas", "triton", "mosaic", "jax-triton", "xla", "reference"]
Implementation = Literal["auto", Available]

EVERY_OPERATION_HAS: tuple[Available, ...] = ("pallas", "reference")
# An operation with one kernel has it in Triton, and one with one form in jax.numpy lets XLA compile that.
OTHER_NAMES: Mapping[Available, Available] = {"triton": "pallas", "xla": "reference"}

logger = logging.getLogger(__name__)


class UnsupportedError(NotImplementedError):
    """The chosen implementation cannot serve this call; the message says why and what can."""


def select(
    implementation: Implementation, available: Collection[Available] = EVERY_OPERATION_HAS
) -> Available:
    """The name of the implementation among the operation's `available` ones.

    - "auto" is "pallas" on a GPU and "xla" elsewhere.
    - "pallas" is the best for a call on a GPU: a kernel of this package in Triton or Mosaic, or XLA where
      that is faster. On a CPU its kernels are interpreted.
    - "triton", "mosaic" and "jax-triton" are a kernel by the language that it is written in.
    - "xla" is the jax.numpy form that is allowed to be fast, for any device.
    - "reference" is the one that is obviously right and may be slow, for tests. It may be the same as "xla".

    Raises UnsupportedError where the operation has no such implementation.
    """
    if implementation not in get_args(Implementation):
        known = ", ".join(map(repr, get_args(Implementation)))
        raise ValueError(f"implementation={implementation!r} is unknown; choose one of {known}")
    wanted = implementation
    if wanted == "auto":
        wanted = "pallas" if targets_a_gpu() else "xla"
    if wanted in available:
        return wanted
    if OTHER_NAMES.get(wanted) in available:
        return OTHER_NAMES[wanted]
    choices = ", ".join(map(repr, ("auto", *available)))
    raise UnsupportedError(
        f"this operation has no implementation {implementation!r}; choose one of {choices}"
    )


def should_interpret(interpret: bool | None) -> bool:
    """Pallas kernels run in interpret mode where they are not traced for a GPU, unless the caller decides."""
    if interpret is not None:
        return interpret
    if targets_a_gpu():
        return False
    logger.debug("no GPU: the Pallas kernel runs in interpret mode, which is slow and meant for tests")
    return True

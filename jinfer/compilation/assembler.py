"""The assembler, which XLA starts as a process of its own for each program of a GPU.

Where all cores are at work that start fails once in some ten thousand times ("Failed to launch ptxas"), and
succeeds a moment later (benchmarks/results/nvidia-h200/test_suite.txt, runs 9 to 13).
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import jax

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
NOT_STARTED = "Failed to launch ptxas"
PAUSES_S = (0.2, 1.0)  # before it is tried again


def with_assembler(compile_program: Callable[[], Result]) -> Result:
    """The result of `compile_program`, which is called again if the assembler was not started."""
    for pause_s in PAUSES_S:
        try:
            return compile_program()
        except jax.errors.JaxRuntimeError as error:
            if NOT_STARTED not in str(error):
                raise
            logger.warning("XLA could not start its assembler, and tries again in %.1f s: %s", pause_s, error)
            time.sleep(pause_s)
    return compile_program()

"""What people see while they wait: bars, on stderr in a terminal or as a widget in a notebook, and times in the log."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator

from tqdm.auto import tqdm


def progress_bar(description: str, *, total: int, enabled: bool, **options) -> tqdm:
    """A bar that counts to `total`, or a silent one."""
    return tqdm(desc=description, total=total, disable=not enabled, file=sys.stderr, leave=False, **options)


@contextlib.contextmanager
def logged_time(logger: logging.Logger, what: str) -> Iterator[None]:
    """Logs how long the block took, unless it failed."""
    began = time.perf_counter()
    yield
    logger.info("%s took %.1f s", what, time.perf_counter() - began)

"""Progress for people who wait: bars, on stderr in a terminal or as a widget in a notebook, and times in the
log."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator

from tqdm.auto import tqdm


def progress_bar(description: str, *, total: int, enabled: bool, **options) -> tqdm:
    """A bar that counts to `total`, or a silent one."""
    return tqdm(desc=description, total=total, disable=not enabled, file=sys.stderr, leave=False, **options)


TOOK = "%s took %.1f s"


@contextlib.contextmanager
def logged_time(logger: logging.Logger, what: str) -> Iterator[None]:
    """Logs how long the block took, unless it failed."""
    began = time.perf_counter()
    yield
    logger.info(TOOK, what, time.perf_counter() - began)


@contextlib.contextmanager
def collected_times() -> Iterator[dict[str, float]]:
    """The seconds of each `logged_time` of jinfer that ends within the block, by its description. The mapping
    fills while the block runs."""
    found: dict[str, float] = {}
    root = logging.getLogger("jinfer")
    handler = _Collector(found)
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(root.getEffectiveLevel(), logging.INFO))
    try:
        yield found
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


class _Collector(logging.Handler):
    def __init__(self, found: dict[str, float]) -> None:
        super().__init__(logging.INFO)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == TOOK and isinstance(record.args, tuple):
            what, seconds = record.args
            self._found[str(what)] = float(str(seconds))

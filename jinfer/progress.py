"""Progress bars, on stderr in a terminal and as a widget in a notebook."""

import sys

from tqdm.auto import tqdm


def progress_bar(description: str, *, total: int, enabled: bool, **options) -> tqdm:
    """A bar that counts to `total`, or a silent one."""
    return tqdm(desc=description, total=total, disable=not enabled, file=sys.stderr, leave=False, **options)

"""Garbage collection in the processes of a server."""

import gc

THRESHOLDS = (50_000, 20, 50)
"""Objects made and not freed before the youngest are looked at, and how often those before the older ones."""


def collect_rarely() -> None:
    """Leaves what is there now out of all collections to come, and makes these rare.

    A full collection looks at every object of the process, for a tenth of a second to half a second in which
    no stream gets a token; Python's own thresholds let one come every few seconds under load. For processes
    that are jinfer's own, once they have started. What a request has must therefore not need a collection to
    be freed, or the process grows until one comes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)

"""The costs of a step's way to the front, measured without an engine process."""

import asyncio

from benchmarks import engine_wire


def test_every_part_of_the_way_is_timed():
    results = asyncio.run(engine_wire.measure(rows=2))
    assert results.keys() == {"outbox", "encode", "decode", "apply", "bytes"}
    assert min(results.values()) > 0

"""Garbage collection in the processes of a server, tried in a process of its own."""

import subprocess
import sys

PROGRAM = """
import gc
from jinfer.server.garbage import THRESHOLDS, collect_rarely
before = [[] for _ in range(1000)]
collect_rarely()
assert gc.get_freeze_count() >= 1000, "what was there is looked at no more"
full = gc.get_stats()[2]["collections"]
after = [[[] for _ in range(10)] for _ in range(100_000)]  # as the state of streams: it stays
assert gc.get_stats()[2]["collections"] == full
assert gc.get_threshold() == THRESHOLDS
cycles = gc.get_stats()[0]["collected"]
for _ in range(60_000):
    cycle = []
    cycle.append(cycle)
assert gc.get_stats()[0]["collected"] > cycles, "what dies young is still found"
"""


def test_a_million_objects_start_no_full_collection_and_young_cycles_are_found():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=120)

"""The measurement of a start, without the processes that it measures."""

import pytest

from jinfer.bench import start
from jinfer.bench.opening import Source
from jinfer.bench.start import Start, measure_starts


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_counts_the_starts(monkeypatch, capsys, progress):
    caches = []

    def start_once(source, options, cache):
        caches.append(cache)
        return Start(len(caches), 0.5, 1, {})

    monkeypatch.setattr(start, "start_once", start_once)
    cold, warm = measure_starts(Source(), {"progress": progress})

    assert (cold.seconds, warm.seconds) == (1, 2)
    assert len(set(caches)) == 1, "the second start finds what the first compiled"
    assert ("starting" in capsys.readouterr().err) == progress

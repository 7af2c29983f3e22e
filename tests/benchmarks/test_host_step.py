"""The costs of a step on the host, measured without a device."""

from benchmarks import host_step


def test_every_station_is_timed():
    times = host_step.measure(rows=2)
    assert times.keys() == {"schedule", "batch", "read", "step", "deliver"}
    assert min(times.values()) > 0
    assert times["step"] >= max(times["schedule"], times["batch"], times["read"]), "they are parts of it"

"""What is read from a trace: streams are a device's time, its other lines repeat them."""

import gzip
import json

import pytest

from benchmarks import trace

GPU, HOST = 1, 2


def meta(kind, pid, tid, name):
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def event(pid, tid, name, start, duration, **arguments):
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": start, "dur": duration, "args": arguments}


EVENTS = [
    meta("process_name", GPU, 0, "/device:GPU:0"),
    meta("process_name", HOST, 0, "/host:CPU"),
    meta("thread_name", GPU, 14, "Stream #14(Compute)"),
    meta("thread_name", GPU, 15, "Stream #15(Compute)"),
    meta("thread_name", GPU, 99, "XLA Modules"),
    meta("thread_name", HOST, 1, "python"),
    event(GPU, 99, "jit_step", 100, 300),
    event(GPU, 14, "gemm", 100, 100),
    event(GPU, 15, "attention", 150, 100),  # 100 to 250
    event(GPU, 14, "gemm", 255, 45),
    event(GPU, 14, "MemcpyD2H", 300, 50),
    event(GPU, 14, "gemm", 350, 50),
    event(HOST, 1, "engine step", 0, 200, step_num="0"),
    event(HOST, 1, "engine step", 200, 100, step_num="1"),
    event(HOST, 1, "schedule", 1, 20),
    event(HOST, 1, "schedule", 201, 10),
    event(HOST, 1, "something else", 0, 500),
]


@pytest.fixture
def directory(tmp_path):
    file = tmp_path / "plugins" / "profile" / "today" / "host.trace.json.gz"
    file.parent.mkdir(parents=True)
    with gzip.open(file, "wt") as stream:
        json.dump({"traceEvents": EVENTS}, stream)
    return tmp_path


def test_idle_is_what_no_stream_works_in(directory):
    found = trace.read_trace(directory)
    (kernels,) = found.kernels.values()
    occupied = trace.occupation(kernels)
    assert (occupied.window_us, occupied.busy_us) == (300, 150 + 45 + 50)
    assert occupied.gaps_us == (5, 50)
    assert occupied.idle_percent == pytest.approx(100 * 55 / 300)
    assert [copy.name for copy in found.copies["/device:GPU:0"]] == ["MemcpyD2H"]


def test_the_host_is_counted_by_station(directory):
    found = trace.read_trace(directory)
    assert found.num_steps == 2
    assert found.stations_us == {"schedule": 30}


def test_the_report_names_what_took_longest(directory, capsys):
    assert trace.main([str(directory)]) == 0
    out = capsys.readouterr().out
    assert "2 engine steps of 150 us on the host" in out
    assert "schedule           15.0 us a step" in out
    assert "busy 81.7%, idle 18.3%" in out
    assert "1 gaps of 10 us or more take 16.7%; the longest takes 50 us" in out
    rows = [line.split() for line in out.splitlines() if line.endswith(("gemm", "attention"))]
    assert rows == [
        ["97.5", "1.5", "65.00", "79.6%", "gemm"],
        ["50.0", "0.5", "100.00", "40.8%", "attention"],
    ]


def test_no_trace_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match=r"there is no \*.trace.json.gz under"):
        trace.main([str(tmp_path)])


def test_the_steps_in_which_the_profiler_begins_are_left_out():
    steps = [
        event(HOST, 1, trace.STEP, 100 * i, 100, step_num=str(i)) for i in range(trace.STEPS_LEFT_OUT + 2)
    ]
    kernels = [event(GPU, 14, "gemm", 100 * i + 10, 50) for i in range(trace.STEPS_LEFT_OUT + 2)]
    found = trace.sort_events([*EVENTS[:6], *steps, *kernels])
    (device,) = found.kernels.values()
    assert [kernel.start_us for kernel in found.steady(device)] == [510, 610]
    assert trace.sort_events([*EVENTS[:6], *kernels]).steady(device)[0].start_us == 10

"""The same step, or workload, on numbers that draw less power, and what nvidia-smi shows meanwhile."""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import power
from benchmarks.compare.workloads import comparable_workload
from jinfer.bench.limits import MachineLimits
from jinfer.bench.opening import Source, open_bench
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import default_placement
from jinfer.weights.dummy_params import dummy_params
from tests.tiny_model import CONFIG

FAKE = """#!/bin/sh
echo "1500, 690.5"
echo "[Unknown Error]"
echo "1980, 120.0"
touch "$0.has-spoken"
exec sleep 600
"""


def test_every_kind_of_data_is_measured_on_one_executable(monkeypatch):
    monkeypatch.setenv("PATH", "")
    model = build_model(read_model_config(CONFIG), jnp.dtype("float32"), "xla")
    lines = list(
        power.measure(
            model,
            dummy_params(model.param_specs, 0, placement=default_placement()),
            comparable_workload("b2-16", 8),
            repeats=1,
        )
    )
    assert [line["data"] for line in lines] == ["random", "zero cache", "zeros"]
    assert all(line.keys() == {"data", "step_ms"} for line in lines), (
        "no figures where there is no nvidia-smi"
    )
    assert all(line["step_ms"] > 0 for line in lines)


def test_an_engine_runs_the_same_workloads_on_zeros(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    options = {"max_num_seqs": 2, "max_num_batched_tokens": 16, "num_pages": 20, "dtype": "float32"}
    workloads = [comparable_workload("2x10", 4), comparable_workload("prefill-2x10", 4)]
    with open_bench(Source(config=tmp_path), options, MachineLimits(1.0, 1.0, 1.0), 1, 0, False) as opened:
        before = jax.tree.map(lambda each: (each.shape, each.dtype), opened.parts.executor.params)
        lines = list(power.measure_engine(opened, workloads))
        after = opened.parts.executor.params
    assert [(line["data"], line["workload"]) for line in lines] == [
        ("random", "2x10"),
        ("random", "prefill-2x10"),
        ("zeros", "2x10"),
        ("zeros", "prefill-2x10"),
    ]
    assert all(line["value"] > 0 for line in lines)
    assert jax.tree.map(lambda each: (each.shape, each.dtype), after) == before
    assert not any(np.asarray(each).any() for each in jax.tree.leaves(after))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "page_size=64"], "add --engine"),
        (["--repeats", "0"], "--repeats 0"),
        (["b64"], "unknown"),
        (["--engine", "--set", "page_size"], "NAME=VALUE"),
        ([], "no config.json"),
    ],
)
def test_mistakes_are_said_before_anything_is_loaded(monkeypatch, capsys, tmp_path, arguments, said):
    monkeypatch.setattr(sys, "argv", ["power", str(tmp_path), *arguments])
    with pytest.raises(SystemExit, match="2"):
        power.main()
    assert said in capsys.readouterr().err


def test_what_nvidia_smi_shows_is_kept_and_its_process_ends(monkeypatch, tmp_path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    shown = {}
    began = time.monotonic()
    with power.watched(shown):
        while not (tmp_path / "nvidia-smi.has-spoken").exists():
            time.sleep(0.01)
    assert time.monotonic() - began < 600
    assert shown == {"clocks.sm": [1500.0, 1980.0], "power.draw.instant": [690.5, 120.0]}


def test_the_busier_half_counts():
    shown = {
        "clocks.sm": [1980.0, 1500.0, 1520.0, 1980.0],
        "power.draw.instant": [120.0, 690.0, 680.0, 300.0],
    }
    assert power._busiest(shown) == {"power_w": 685.0, "sm_clock_mhz": 1510.0}
    assert power._busiest({}) == {}

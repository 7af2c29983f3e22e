"""Engines side by side: the same definitions for each, and a word for those that are missing."""

import json
import sys
import textwrap

import pytest

from benchmarks.compare import __main__ as compare
from benchmarks.compare import child, engines
from benchmarks.compare.workloads import comparable_workload, measure
from jinfer import ConfigError
from tests.conftest import COMPILES_FAST
from tests.tiny_model import CONFIG

FAKE_VLLM = textwrap.dedent('''
    """A stand-in that keeps what it is called with."""
    from types import SimpleNamespace
    calls = []
    class SamplingParams(SimpleNamespace):
        pass
    class LLM:
        def __init__(self, **options):
            calls.append(options)
        def generate(self, prompts, params, use_tqdm):
            calls.append((prompts, params))
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[0] * p.max_tokens)]) for p in params]
''')


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_type": "qwen3"}))
    return tmp_path


def test_figures_are_those_of_jinfer_bench():
    def generate(prompts, outputs):
        assert len(set(prompts)) == len(prompts)
        return 0.1 * len(prompts) + 0.005 * (max(outputs) - 1)

    def figure(name):
        return measure(generate, comparable_workload(name, 10), vocab_size=64, repeats=2, seed=0)

    assert figure("b4-16") == (pytest.approx(5), "ms")
    assert figure("ttft-16") == (pytest.approx(100), "ms")
    assert figure("4x16") == (pytest.approx(40 / 0.445), "tokens/s")
    assert figure("prefill-4x16") == (pytest.approx(64 / 0.4), "tokens/s")


@pytest.mark.parametrize("name", ["azure", "poisson-4", "shared-prefix", "b4"])
def test_what_cannot_be_compared_is_an_error(name):
    with pytest.raises(ConfigError, match=r"is not compared|unknown"):
        comparable_workload(name, 10)


def test_vllm_gets_the_same_prompts_and_parameters(tiny, tmp_path, monkeypatch, capsys):
    (tmp_path / "vllm.py").write_text(FAKE_VLLM)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    request = {
        "engine": "vllm",
        "config": str(tiny),
        "workloads": ["b2-8"],
        "output_len": 4,
        "repeats": 1,
        "seed": 0,
    }
    request["options"] = {"gpu_memory_utilization": 0.8}
    child.main(request)
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["workload"] == "b2-8"
    options, _, (_, first), (prompts, full) = sys.modules["vllm"].calls
    assert options["load_format"] == "dummy"
    assert options["enable_prefix_caching"] is False
    assert options["gpu_memory_utilization"] == 0.8
    assert options["max_model_len"] == 8 + 5 + 1
    assert [len(prompt["prompt_token_ids"]) for prompt in prompts] == [8, 8]
    assert [each.max_tokens for each in first + full] == [1, 1, 5, 5]
    assert {(each.temperature, each.ignore_eos) for each in full} == {(0.6, True)}
    monkeypatch.delitem(sys.modules, "vllm")


def test_transformers_pads_and_counts(tiny):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    generate = engines.open_transformers(tiny, 48, {})
    assert generate([(1, 2, 3), (4,)], [5, 2]) > 0


def test_jinfer_runs_in_a_process_and_the_missing_are_named(tiny, capsys, monkeypatch):
    missing = {
        **engines.ENGINES,
        "vllm": engines.CompareEngine("there_is_no_such_package", engines.open_vllm),
    }
    monkeypatch.setattr(compare, "ENGINES", missing)
    for name, value in COMPILES_FAST.items():
        monkeypatch.setenv(name, value)
    words = [str(tiny), "b2-8", "ttft-60", "--engines", "jinfer,vllm", "--output-len", "4", "--repeats", "1"]
    words += ["--jinfer", "max_num_seqs=2", "--jinfer", "max_num_batched_tokens=16"]
    assert compare.main(words) == 1, "one workload does not fit"
    head, first, second, error = capsys.readouterr().out.splitlines()
    assert head.split() == ["workload", "jinfer", "vllm", "jinfer"]
    assert first.split()[0] == "b2-8"
    assert first.split()[2:] == ["ms", "not", "installed"]
    assert second.split() == ["ttft-60", "failed", "not", "installed"]
    assert error.startswith("jinfer: RequestError: the prompt has 60 tokens")


def test_the_last_column_is_how_many_times_as_fast(capsys):
    cells = {
        "jinfer": {"b1": {"value": 2.0, "unit": "ms"}, "4x8": {"value": 300.0, "unit": "tokens/s"}},
        "vllm": {"b1": {"value": 3.0, "unit": "ms"}, "4x8": {"value": 200.0, "unit": "tokens/s"}},
        "transformers": {"b1": "not installed", "4x8": {"error": "too slow"}},
    }
    _, first, second, error = compare.table(["b1", "4x8"], cells).splitlines()
    assert first.split()[-3:] == ["not", "installed", "1.50x"]
    assert second.split()[-2:] == ["failed", "1.50x"]
    assert error == "transformers: too slow"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["b1", "--engines", "jinfer,sglang"],
            "no engine is called sglang; there are jinfer, vllm, transformers",
        ),
        (["azure"], "workload 'azure' is not compared"),
    ],
)
def test_bad_input(tiny, capsys, words, message):
    with pytest.raises(SystemExit):
        compare.main([str(tiny), *words])
    assert message in capsys.readouterr().err

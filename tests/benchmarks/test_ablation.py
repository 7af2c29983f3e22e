"""Every variant differs from the baseline in what it says, and one that fails does not end the others."""

import json
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest

from benchmarks.ablation import __main__ as ablation
from benchmarks.ablation import child, decode_step, patches
from benchmarks.ablation.decode_step import DecodeStep, StepChoices
from benchmarks.ablation.variants import VARIANTS, Variant, find_variants
from benchmarks.compare.workloads import comparable_workload
from jinfer import ConfigError
from jinfer.batching import buckets
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import default_placement
from jinfer.scheduling import step_plan
from jinfer.weights.dummy_params import dummy_params
from pallas_kernels import paged_attention
from tests.tiny_model import CONFIG

ENGINE = {"max_num_seqs": 2, "max_num_batched_tokens": 16, "page_size": 4}
MACHINE = {"read_tb_per_s": 4.0, "copy_tb_per_s": 3.0, "matmul_tflop_per_s": 700.0}


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "Tiny").mkdir()
    (tmp_path / "Tiny" / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path / "Tiny"


def test_the_issue_s_choices_have_a_variant_each():
    assert {variant.name for variant in VARIANTS} >= {
        "baseline",
        "cuda-graphs-off",
        "overlap-off",
        "mixed-off",
        "jax-attention",
        "default-compiler-options",
        "page-1",
        "page-16",
        "page-64",
        "buckets-sparse",
        "buckets-dense",
    }
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)


def test_an_option_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="EngineConfig has no option warp_drive"):
        Variant("x", "x", (), {"warp_drive": False, "page_size": 16}).check()
    Variant("x", "x", (), {"page_size": 16}).check()


def test_an_unknown_variant_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ConfigError, match="no variant is called page-3; there are baseline, overlap-off"):
        find_variants(["baseline", "page-3"])


def test_patches_change_the_shapes_that_are_compiled(monkeypatch):
    monkeypatch.setattr(buckets, "STEPS_PER_OCTAVE", buckets.STEPS_PER_OCTAVE)
    counts = {}
    for patch in (patches.sparse_buckets, patches.dense_buckets):
        patch()
        counts[patch] = buckets._row_counts(64)
    assert counts[patches.sparse_buckets] == [1, 2, 4, 8, 16, 32, 64]
    assert counts[patches.dense_buckets][4:10] == [9, 10, 11, 12, 14, 16]


def test_decode_rows_in_order_of_arrival(monkeypatch):
    monkeypatch.setattr(step_plan, "BY_LENGTH", step_plan.BY_LENGTH)
    step = step_plan.StepInProgress(16)
    step.decoding = [Mock(row=row, num_computed_tokens=length) for row, length in enumerate((3, 9, 6))]
    patches.order_of_arrival()
    assert step.plan().decode.row_ids == [0, 1, 2]
    monkeypatch.undo()
    assert step.plan().decode.row_ids == [1, 2, 0]


def test_a_patch_without_its_place_says_so(monkeypatch):
    monkeypatch.delattr(buckets, "STEPS_PER_OCTAVE")
    with pytest.raises(AttributeError, match=r"jinfer\.batching\.buckets has no STEPS_PER_OCTAVE any more"):
        patches.sparse_buckets()


def test_a_decode_step_reads_each_layer_of_the_foreign_cache(monkeypatch):
    model = build_model(read_model_config(CONFIG), jnp.dtype("float32"), "xla")
    calls = []

    def theirs(q, k_pages, v_pages, page_table, lengths, *, k_splits, **options):
        assert k_pages.shape == v_pages.shape == (2, 2 * 8 + 1, 16, 8)
        assert page_table.shape[1] % (8 * k_splits) == 0
        calls.append(k_splits)
        return jnp.zeros_like(q)

    monkeypatch.setattr(decode_step, "jax_kernel", lambda name: theirs)
    before = paged_attention.append_and_decode
    workload = comparable_workload("b2-16", 8)
    params = dummy_params(model.param_specs, 0, placement=default_placement())
    for choices, num_calls in ((StepChoices(), 0), (StepChoices(has_jax_attention=True), 2)):
        step = DecodeStep(model, params, workload, choices)
        assert step.time_ms(step.compile(), params) > 0
        assert len(calls) == num_calls, "one for each layer"
    assert paged_attention.append_and_decode is before


def test_nothing_replaced_is_an_error(monkeypatch):
    monkeypatch.setattr(decode_step, "jax_kernel", lambda name: None)
    with (
        pytest.raises(RuntimeError, match="has no paged attention of its own"),
        decode_step._jax_attention((), 1, 16),
    ):
        pass
    monkeypatch.setattr(decode_step, "jax_kernel", lambda name: jax.nn.relu)
    with pytest.raises(RuntimeError, match="not all was replaced"), decode_step._jax_attention((1, 2), 1, 16):
        pass


def test_a_child_prints_a_line_for_each_result(tiny, capsys):
    request = {
        "variants": ["overlap-off"],
        "config": str(tiny),
        "workloads": ["ttft-8"],
        "repeats": 1,
        "machine": MACHINE,
        "options": {**ENGINE, "max_model_len": 48},
        "command": "python -m benchmarks.ablation Tiny",
    }
    assert child.main(request) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["id"] == "ablation-tiny-overlap-off-ttft-8"
    assert (line["variant"], line["machine"]) == ("overlap-off", MACHINE)
    assert line["command"] == "python -m benchmarks.ablation Tiny"
    assert child.main({**request, "variants": ["nothing"]}) == 1
    assert "no variant is called nothing" in capsys.readouterr().err


def test_steps_share_a_process_and_one_that_fails_ends_no_other(tiny, capsys, monkeypatch):
    """On a machine whose jax has no attention of its own."""
    monkeypatch.setattr(decode_step, "jax_kernel", lambda name: None)
    request = {
        "variants": ["decode-step", "jax-attention", "page-64"],
        "config": str(tiny),
        "workloads": ["b2-8"],
        "repeats": 1,
        "options": {"dtype": "float32"},
        "machine": MACHINE,
        "command": "x",
    }
    assert child.main(request) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["variant"]: line.get("id") for line in lines} == {
        "decode-step": "ablation-tiny-decode-step-b2-8",
        "page-64": "ablation-tiny-page-64-b2-8",
        "jax-attention": None,
    }
    (failed,) = (line for line in lines if "error" in line)
    assert "no paged attention of its own" in failed["error"]


def test_what_fails_is_a_row_and_the_others_go_on(tiny, tmp_path, monkeypatch, capsys):
    def fake_lines(command, request):
        assert request["machine"] == (None if request["variants"] == ["baseline"] else MACHINE)
        if request["variants"] == ["overlap-off"]:
            raise ablation.ProcessError("it ended with status 1")
        for name, value in {"baseline": 4.0, "decode-step": 3.2, "page-1": None, "page-64": 4.0}.items():
            if name not in request["variants"]:
                continue
            line = {"variant": name, "machine": MACHINE}
            if value is None:
                yield {**line, "error": "out of memory"}
                continue
            yield {
                **line,
                "id": f"ablation-tiny-{name}-b64-1024",
                "value": value,
                "unit": "ms",
                "limit": 3.0,
                "percent_of_limit": round(300 / value, 1),
                "versions": {"device": "NVIDIA H200"},
            }

    monkeypatch.setattr(ablation, "json_lines", fake_lines)
    names = ["baseline", "overlap-off", "decode-step", "page-1", "page-64"]
    words = [str(tiny), *(word for name in names for word in ("--only", name)), "--record"]
    assert ablation.main([*words, "--results", str(tmp_path)]) == 1
    _, baseline, failed, _, other_failed, slower = capsys.readouterr().out.splitlines()
    assert baseline.split()[:5] == ["baseline", "b64-1024", "4", "ms", "75.0%"]
    assert failed == f"{'overlap-off':<26}failed: it ended with status 1"
    assert other_failed == f"{'page-1':<26}failed: out of memory"
    assert "1.250x" in slower, "than the step, not than the engine"
    recorded = (tmp_path / "nvidia-h200" / "engine.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"].split("-b64")[0] for line in recorded] == [
        "ablation-tiny-baseline",
        "ablation-tiny-decode-step",
        "ablation-tiny-page-64",
    ]
    assert not {"machine", "variant"} & json.loads(recorded[0]).keys()

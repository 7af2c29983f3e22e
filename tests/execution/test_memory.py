"""Which sizes an engine takes from its options, its model and the memory of a device, and when it refuses."""

import logging
import math
from typing import Any
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest

from jinfer.batching.buckets import StepShape
from jinfer.config import CacheOptions, EngineConfig, EngineLimits
from jinfer.errors import ConfigError, InsufficientMemoryError
from jinfer.execution import device_memory
from jinfer.execution.device_memory import GB, DeviceMemory
from jinfer.execution.device_state import abstract_device_state
from jinfer.execution.memory import (
    RESERVE_BYTES,
    MemoryNeeds,
    check_weights_fit,
    check_workspace,
    choose_dtype,
    choose_limits,
    plan_memory,
)
from jinfer.execution.memory_plan import MemoryPlan
from jinfer.execution.workspace import split_steps_bytes
from jinfer.models.registry import build_model, read_model_config
from jinfer.weights.params import num_bytes
from tests.checkpoints import CONFIG, CONTEXT, random_tensors

FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
MODEL = read_model_config(CONFIG)
BYTES_PER_TOKEN = 2 * 2 * 2 * 8 * 4  # keys and values, layers, KV heads, head_dim, float32
LONG = 1 << 40  # a context that no memory holds


def device(platform: str, kind: str, stats: dict[str, int] | None) -> jax.Device:
    fake = Mock(spec=jax.Device, platform=platform, device_kind=kind)
    fake.memory_stats.return_value = stats
    return fake


def gpu(total: int, used: int = 0) -> jax.Device:
    return device("gpu", "a GPU", {"bytes_limit": total, "bytes_in_use": used})


def cpu() -> jax.Device:
    return device("cpu", "cpu", None)


@pytest.fixture
def host_memory(monkeypatch, tmp_path):
    """Sets what the host has available."""

    def set_to(num_bytes: int) -> None:
        file = tmp_path / "meminfo"
        file.write_text(
            f"MemTotal:  {LONG} kB\nMemFree:    0 kB\nMemAvailable:  {num_bytes // 1024} kB\nBuffers: 0 kB\n"
        )
        monkeypatch.setattr(device_memory, "MEMINFO", file)

    return set_to


def long_model(context: int):
    return read_model_config(dict(CONFIG, max_position_embeddings=context))


def memory_plan(
    model=MODEL,
    device=None,
    dtype=FLOAT32,
    *,
    weight_bytes: int = 0,
    step_bytes: int | None = GB // 10,
    **options: Any,
) -> MemoryPlan:
    """`options` are those of the engine. The largest step needs `step_bytes`, where that is known."""
    config, device = EngineConfig.from_options(options), device or gpu(10 * GB)
    chosen = choose_limits(config, model, device)
    needs = MemoryNeeds.of(model, chosen, dtype, weight_bytes=weight_bytes, step_bytes=step_bytes)
    return plan_memory(config.cache, chosen, DeviceMemory.of(device), needs)


def plan(*args: Any, **options: Any) -> EngineLimits:
    return memory_plan(*args, **options).limits


def test_dtype_is_the_users_or_that_of_the_device():
    assert choose_dtype(None, gpu(GB)) == BFLOAT16
    assert choose_dtype(None, cpu()) == FLOAT32
    assert choose_dtype("float32", gpu(GB)) == FLOAT32
    assert choose_dtype("bfloat16", cpu()) == BFLOAT16


def test_a_gpu_runs_more_at_a_time_than_a_cpu(host_memory):
    host_memory(8 * GB)
    on_gpu, on_cpu = plan(), plan(device=cpu())

    assert (on_gpu.max_num_seqs, on_gpu.max_num_batched_tokens) == (256, 4096)
    assert (on_cpu.max_num_seqs, on_cpu.max_num_batched_tokens) == (8, 256)


def test_pages_are_as_many_as_all_rows_can_use_where_memory_is_plenty():
    limits = plan(max_num_seqs=4, page_size=16)

    assert limits.max_model_len == CONTEXT
    assert limits.num_pages == 4 * CONTEXT // 16 + 1  # the null page


def test_a_context_that_is_no_multiple_of_the_page_gets_the_last_page_whole():
    limits = plan(max_num_seqs=4, page_size=16, max_model_len=33)

    assert limits.max_model_len == 33
    assert limits.num_pages == 4 * 3 + 1


def test_pages_fill_what_weights_workspace_and_reserve_leave_of_the_share():
    model, page_bytes = long_model(1 << 20), 16 * BYTES_PER_TOKEN
    given = memory_plan(
        model, gpu(10 * GB, used=2 * GB), weight_bytes=GB, step_bytes=GB, gpu_memory_utilization=0.5
    )

    split = split_steps_bytes(model.vocab_size, given.limits)
    left = 10 * GB * 0.5 - 2 * GB - GB - GB - split - RESERVE_BYTES
    most = int(left // page_bytes)
    assert most * 255 / 256 < given.limits.num_pages <= most
    assert given.cache_bytes == given.limits.num_pages * page_bytes
    assert given.cache_bytes == num_bytes(abstract_device_state(model, given.limits, FLOAT32).kv_cache)
    assert given.unplanned_bytes == left - given.cache_bytes


@pytest.mark.parametrize("kv_cache_dtype", ["int8", "fp8_e4m3"])
def test_a_cache_in_8_bits_holds_nearly_four_times_as_many_tokens_as_one_in_float32(kv_cache_dtype):
    """And half of that beside bfloat16: the scale is 4 bytes of 132."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128}
    model = read_model_config(dict(CONFIG, max_position_embeddings=1 << 20, **heads))
    plain, quantized = (
        plan(model, gpu(10 * GB), kv_cache_dtype=dtype).num_pages for dtype in ("auto", kv_cache_dtype)
    )
    assert quantized / plain == pytest.approx(4 * 128 / 132, rel=1 / 128)
    memory = memory_plan(model, gpu(10 * GB), kv_cache_dtype=kv_cache_dtype)
    assert f"KV cache in {kv_cache_dtype} " in str(memory)


def test_a_little_more_or_less_in_use_gives_the_same_number_of_pages():
    """It is a shape, by which compiled steps are found again on disk."""
    model = long_model(1 << 20)
    numbers = {plan(model, gpu(10 * GB, used=used)).num_pages for used in range(10**5, 10**7, 10**6)}

    assert len(numbers) <= 2
    assert len({plan(MODEL, gpu(GB, used=used)).num_pages for used in (10**8, 10**8 + 10**5)}) == 1


def test_few_pages_are_not_rounded():
    model, page_bytes = long_model(1 << 20), 16 * BYTES_PER_TOKEN
    split = split_steps_bytes(model.vocab_size, plan(model, gpu(10 * GB)))
    total = RESERVE_BYTES + split + 255 * page_bytes

    assert plan(model, gpu(total), step_bytes=0, gpu_memory_utilization=1).num_pages == 255


def test_pages_of_a_smaller_dtype_are_twice_as_many():
    given = {dtype: plan(long_model(1 << 20), gpu(4 * GB), dtype).num_pages for dtype in (FLOAT32, BFLOAT16)}

    assert given[BFLOAT16] == pytest.approx(2 * given[FLOAT32], rel=1 / 128)


def test_the_workspace_is_estimated_where_xla_does_not_say():
    known, estimated = (memory_plan(step_bytes=size).workspace_bytes for size in (1000, None))

    assert known == RESERVE_BYTES + 1000 + split_steps_bytes(MODEL.vocab_size, plan())
    logits = 256 * MODEL.vocab_size * 4
    assert estimated > RESERVE_BYTES + 2 * logits


def test_a_cpu_gives_a_gigabyte_of_pages_at_most(host_memory):
    host_memory(64 * GB)
    limits = plan(long_model(1 << 20), cpu())

    assert limits.num_pages == pytest.approx(GB / (16 * BYTES_PER_TOKEN), rel=1 / 256)
    assert limits.num_pages <= GB / (16 * BYTES_PER_TOKEN)


def test_num_pages_is_taken_as_given_also_beyond_that_gigabyte(host_memory):
    host_memory(64 * GB)
    num_pages = 3 * GB // (16 * BYTES_PER_TOKEN)

    assert plan(long_model(1 << 20), cpu(), num_pages=num_pages).num_pages == num_pages


def test_cached_files_count_as_memory_that_is_there(host_memory):
    host_memory(2 * GB)

    available = DeviceMemory.of(cpu()).available_bytes(0.5)
    assert available == pytest.approx(GB, rel=1e-5)


def test_a_system_without_meminfo_counts_all_its_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(device_memory, "MEMINFO", tmp_path / "none")

    assert DeviceMemory.of(cpu()).available_bytes(CacheOptions().gpu_memory_utilization) > GB / 10


def test_fewer_pages_than_the_context_shorten_it_and_say_so(caplog):
    with caplog.at_level(logging.INFO, logger="jinfer"):
        limits = plan(num_pages=4, page_size=8)

    assert limits.max_model_len == 3 * 8
    assert "3 pages of 8 hold 24 tokens" in caplog.text
    assert str(CONTEXT) in caplog.text


def test_a_context_that_the_pages_hold_is_not_mentioned(caplog):
    with caplog.at_level(logging.INFO, logger="jinfer"):
        plan(num_pages=9, page_size=8)

    assert caplog.text == ""


@pytest.mark.parametrize(("num_pages", "context"), [(4, 24), (9, CONTEXT), (100, CONTEXT)])
def test_an_automatic_context_is_what_the_pages_of_one_sequence_hold(num_pages, context, caplog):
    with caplog.at_level(logging.INFO, logger="jinfer"):
        limits = plan(num_pages=num_pages, page_size=8, max_model_len="auto")

    assert limits.max_model_len == context
    assert caplog.text == ""


def test_rows_default_to_what_a_step_has_tokens_for():
    assert plan(max_num_batched_tokens=16).max_num_seqs == 16


def check_message(error: pytest.ExceptionInfo, *parts: str) -> None:
    for part in parts:
        assert part in str(error.value)


def test_more_sequences_than_tokens_in_a_step_is_a_contradiction():
    with pytest.raises(ConfigError) as caught:
        plan(max_num_seqs=32, max_num_batched_tokens=16)

    check_message(caught, "max_num_seqs=32", "max_num_batched_tokens=16", "raise it or lower max_num_seqs")


def test_a_context_beyond_the_models_is_refused():
    with pytest.raises(ConfigError) as caught:
        plan(max_model_len=CONTEXT + 1)

    check_message(caught, f"max_model_len={CONTEXT + 1}", f"{CONTEXT} positions", "lower it")


def test_pages_that_hold_less_than_the_context_asked_for_are_refused():
    with pytest.raises(InsufficientMemoryError) as caught:
        plan(num_pages=3, page_size=8, max_model_len=CONTEXT)

    check_message(
        caught, "2 pages of 8 hold 16 tokens", f"max_model_len={CONTEXT}", "raise num_pages or lower"
    )


def test_more_pages_than_memory_is_refused_with_sizes_and_what_would_fit():
    with pytest.raises(InsufficientMemoryError) as caught:
        plan(num_pages=10**9, device=gpu(4 * GB), max_num_seqs=8)

    needed = 10**9 * 16 * BYTES_PER_TOKEN / GB
    check_message(
        caught, "1000000000 pages of 16 tokens", f"{needed:.2f} GB", "gpu_memory_utilization=0.9 of a GPU"
    )
    check_message(
        caught, "lower num_pages, max_num_seqs or max_num_batched_tokens, or raise gpu_memory_utilization"
    )
    fits = int(str(caught.value).partition(" pages; lower")[0].rpartition(" ")[2])
    assert plan(num_pages=fits, device=gpu(4 * GB), max_num_seqs=8).num_pages == fits
    with pytest.raises(InsufficientMemoryError):
        plan(num_pages=fits + 1, device=gpu(4 * GB), max_num_seqs=8)


def test_a_device_without_room_for_a_page_is_refused_with_zero_not_less():
    with pytest.raises(InsufficientMemoryError) as caught:
        plan(device=gpu(GB, used=GB))

    check_message(caught, "leaves 0.00 GB", "which is 0 pages")


def test_weights_that_do_not_fit_are_refused_before_they_are_loaded():
    model = build_model(MODEL, FLOAT32, "xla")
    needed = sum(math.prod(tensor.shape) * 4 for tensor in random_tensors().values())
    check_weights_fit(model, 1, gpu(needed))
    with pytest.raises(InsufficientMemoryError) as caught:
        check_weights_fit(model, 1, gpu(needed - 1))

    check_message(
        caught, f"{needed / GB:.2f} GB", "gpu_memory_utilization=1 of a GPU", "use a smaller model, bfloat16"
    )


def test_memory_in_use_counts_against_the_weights():
    model = build_model(MODEL, FLOAT32, "xla")
    with pytest.raises(InsufficientMemoryError):
        check_weights_fit(model, CacheOptions().gpu_memory_utilization, gpu(10 * GB, used=9 * GB))


def test_the_plan_says_in_a_line_what_went_where():
    model = read_model_config(dict(CONFIG, max_position_embeddings=32_768))
    given = memory_plan(
        model,
        gpu(141 * GB, used=3 * GB),
        weight_bytes=16_400_000_000,
        step_bytes=700 * 10**6,
        num_pages=50_001,
    )
    free = 141 * 0.9 - 3 - 16.4 - 0.7 - RESERVE_BYTES / GB - 50_001 * 16 * BYTES_PER_TOKEN / GB

    assert str(given) == (
        "memory: 141.0 GB x 0.9: in use before 3.0 GB, weights 16.4 GB, workspace 1.2 GB, "
        f"left over {free:.1f} GB, KV cache 0.2 GB = 800,000 tokens in 50,001 pages of 16; context 32,768"
    )


def test_what_is_nothing_is_not_mentioned_and_what_is_little_is_in_megabytes():
    line = str(memory_plan(device=gpu(GB), num_pages=101, weight_bytes=2_340_000))

    assert "in use before" not in line
    assert "weights 2.3 MB, workspace 0.6 GB" in line
    assert "KV cache 0.4 MB = 1,600 tokens in 101 pages of 16; context 64" in line


def compiled_step(temporary: int, output: int, alias: int) -> Mock:
    analysis = Mock(
        temp_size_in_bytes=temporary,
        output_size_in_bytes=output,
        alias_size_in_bytes=alias,
        argument_size_in_bytes=GB,
    )
    return Mock(spec=jax.stages.Compiled, memory_analysis=Mock(return_value=analysis))


def test_steps_within_the_plan_are_not_mentioned(caplog):
    given = memory_plan(step_bytes=1000)
    unknown = Mock(spec=jax.stages.Compiled, memory_analysis=Mock(return_value=None))
    check_workspace(given, {StepShape(1): compiled_step(900, 5100, 5000), StepShape(2): unknown})

    assert caplog.text == ""


def test_a_step_that_needs_more_than_was_planned_is_worth_a_warning(caplog):
    given = memory_plan(step_bytes=GB)
    check_workspace(
        given, {StepShape(1): compiled_step(10, 0, 0), StepShape(2): compiled_step(2 * GB, 3 * GB, GB)}
    )

    assert "a step needs 4.00 GB of workspace, and 1.51 GB were planned" in caplog.text

"""Which sizes an engine takes from its options, its model and the memory of a device, and when it refuses."""

import logging
import math
from typing import Any
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest

from jinfer.config import EngineConfig, Limits
from jinfer.errors import ConfigError, InsufficientMemoryError
from jinfer.execution import memory
from jinfer.execution.device_state import kv_layer_shape
from jinfer.execution.memory import GB, check_weights_fit, choose_dtype, plan_limits
from jinfer.models.registry import build_model, read_model_config
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
        monkeypatch.setattr(memory, "MEMINFO", file)

    return set_to


def long_model(context: int):
    return read_model_config(dict(CONFIG, max_position_embeddings=context))


def plan(model=MODEL, device=None, dtype=FLOAT32, **options: Any) -> Limits:
    return plan_limits(EngineConfig(**options), model, dtype, device or gpu(10 * GB))


def test_dtype_is_the_users_or_that_of_the_device():
    assert choose_dtype(EngineConfig(), gpu(GB)) == BFLOAT16
    assert choose_dtype(EngineConfig(), cpu()) == FLOAT32
    assert choose_dtype(EngineConfig(dtype="float32"), gpu(GB)) == FLOAT32
    assert choose_dtype(EngineConfig(dtype="bfloat16"), cpu()) == BFLOAT16


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


def test_pages_fill_the_share_of_the_gpu_that_is_left():
    model, page_bytes = long_model(1 << 20), 16 * BYTES_PER_TOKEN
    limits = plan(model, gpu(10 * GB, used=2 * GB), gpu_memory_utilization=0.5)

    workspace = memory._workspace_bytes(model, 256, 4096, FLOAT32)
    left = 10 * GB * 0.5 - 2 * GB - workspace
    assert 0 < left < 3 * GB
    assert limits.num_pages == left // page_bytes
    assert limits.num_pages * page_bytes == model.num_layers * math.prod(kv_layer_shape(model, limits)) * 4


def test_pages_of_a_smaller_dtype_are_twice_as_many():
    model = long_model(1 << 20)
    workspace = {dtype: memory._workspace_bytes(model, 256, 4096, dtype) for dtype in (FLOAT32, BFLOAT16)}

    for dtype in (FLOAT32, BFLOAT16):
        page_bytes = 16 * BYTES_PER_TOKEN * dtype.itemsize // 4
        assert plan(model, gpu(4 * GB), dtype).num_pages == (int(4 * GB * 0.9) - workspace[dtype]) // page_bytes


def test_a_cpu_gives_a_gigabyte_of_pages_at_most(host_memory):
    host_memory(64 * GB)
    limits = plan(long_model(1 << 20), cpu())

    assert limits.num_pages == GB // (16 * BYTES_PER_TOKEN)


def test_num_pages_is_taken_as_given_also_beyond_that_gigabyte(host_memory):
    host_memory(64 * GB)
    num_pages = 3 * GB // (16 * BYTES_PER_TOKEN)

    assert plan(long_model(1 << 20), cpu(), num_pages=num_pages).num_pages == num_pages


def test_cached_files_count_as_memory_that_is_there(host_memory):
    host_memory(2 * GB)

    assert memory._available_bytes(EngineConfig(gpu_memory_utilization=0.5), cpu()) == pytest.approx(GB, rel=1e-5)


def test_a_system_without_meminfo_counts_all_its_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")

    assert memory._available_bytes(EngineConfig(), cpu()) > GB / 10


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

    check_message(caught, "2 pages of 8 hold 16 tokens", f"max_model_len={CONTEXT}", "raise num_pages or lower")


def test_more_pages_than_memory_is_refused_with_sizes_and_what_would_fit():
    with pytest.raises(InsufficientMemoryError) as caught:
        plan(num_pages=10**9, device=gpu(4 * GB), max_num_seqs=8)

    needed = 10**9 * 16 * BYTES_PER_TOKEN / GB
    check_message(caught, "1000000000 pages of 16 tokens", f"{needed:.2f} GB", "gpu_memory_utilization=0.9 of a GPU")
    check_message(caught, "lower num_pages, max_num_seqs or max_num_batched_tokens, or raise gpu_memory_utilization")
    fits = int(str(caught.value).partition(" pages; lower")[0].rpartition(" ")[2])
    assert plan(num_pages=fits, device=gpu(4 * GB), max_num_seqs=8).num_pages == fits
    with pytest.raises(InsufficientMemoryError):
        plan(num_pages=fits + 1, device=gpu(4 * GB), max_num_seqs=8)


def test_a_device_without_room_for_a_page_is_refused_with_zero_not_less():
    with pytest.raises(InsufficientMemoryError) as caught:
        plan(device=gpu(GB, used=GB))

    check_message(caught, "leaves 0.00 GB", "which is 0 pages")


def test_weights_that_do_not_fit_are_refused_before_they_are_loaded():
    model = build_model(MODEL, FLOAT32, "reference")
    needed = sum(math.prod(tensor.shape) * 4 for tensor in random_tensors().values())
    check_weights_fit(model, EngineConfig(gpu_memory_utilization=1), gpu(needed))
    with pytest.raises(InsufficientMemoryError) as caught:
        check_weights_fit(model, EngineConfig(gpu_memory_utilization=1), gpu(needed - 1))

    check_message(caught, f"{needed / GB:.2f} GB", "gpu_memory_utilization=1 of a GPU", "use a smaller model, bfloat16")


def test_memory_in_use_counts_against_the_weights():
    model = build_model(MODEL, FLOAT32, "reference")
    with pytest.raises(InsufficientMemoryError):
        check_weights_fit(model, EngineConfig(), gpu(10 * GB, used=9 * GB))

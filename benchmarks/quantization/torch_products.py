"""torch's products, in a CUDA graph, over sets of arguments that are larger than the L2 cache."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.quantization.rows import Shape

NUM_BATCHES, BATCH_S = 5, 0.03


def _bfloat16(torch: Any, shape: Shape) -> tuple[Any, ...]:
    x = torch.randn(shape.rows, shape.num_in, device="cuda", dtype=torch.bfloat16)
    return x, torch.randn(shape.num_out, shape.num_in, device="cuda", dtype=torch.bfloat16)


def _fp8(torch: Any, shape: Shape) -> tuple[Any, ...]:
    x, w = ((a.float() * 100).clamp_(-448, 448).to(torch.float8_e4m3fn) for a in _bfloat16(torch, shape))
    row_scales = torch.rand(shape.rows, 1, device="cuda") * 1e-2
    return x, w, row_scales, torch.rand(1, shape.num_out, device="cuda") * 1e-2


def _multiply(torch: Any, x: Any, w: Any) -> Any:
    return torch.mm(x, w.t())


def _scaled_mm(torch: Any, x: Any, w: Any, row_scales: Any, scales: Any) -> Any:
    return torch._scaled_mm(
        x, w.t(), scale_a=row_scales, scale_b=scales, out_dtype=torch.bfloat16, use_fast_accum=True
    )


PRODUCTS: Mapping[str, tuple[Callable[..., tuple[Any, ...]], Callable[..., Any]]] = {
    "bfloat16": (_bfloat16, _multiply),
    "scaled_mm": (_fp8, _scaled_mm),
}


def microseconds(name: str, shape: Shape, num_sets: int, num_calls: int) -> float | None:
    """A call's time; None where there is no torch that runs on this GPU."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    make, multiply = PRODUCTS[name]
    sets = [make(torch, shape) for _ in range(num_sets)]
    return _time(torch, lambda i: multiply(torch, *sets[i % num_sets]), num_calls)


def _time(torch: Any, call: Callable[[int], Any], num_calls: int) -> float:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(3):
            call(i)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for i in range(num_calls):
            call(i)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def batch(repeats: int) -> float:
        begin.record()
        for _ in range(repeats):
            graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / repeats

    repeats = max(1, round(BATCH_S / max(batch(2), 1e-6)))
    return statistics.median(batch(repeats) for _ in range(NUM_BATCHES)) / num_calls * 1e6

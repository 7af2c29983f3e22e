"""How near every kernel comes to what the machine can do, beside XLA and jax's own kernels, in one run.

    python -m benchmarks.kernels [OP ...] [--case ID] [--json] [--record]
    python -m benchmarks.kernels tune OP [--seconds 240]
    python -m benchmarks.kernels chart

OP is an op's folder ("rms_norm") or one of its functions ("paged_attention.decode"); none means all. The
limits (read and copy bandwidth, matmul rate) are measured first, in the same run. `cases` has a file per op;
a new op adds one.
"""

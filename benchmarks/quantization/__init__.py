"""Products with quantized weights beside bfloat16's in the same run, as ratios.

    python -m benchmarks.quantization [ID ...] [--record] [--smoke]

IDs are w4-m1, w4-m16, w4-m64, w8-m16, int8-static, int8-dynamic-4096, int8-dynamic-8192, fp8-static,
block-fp8-m4096, int8-static-seamless and fp8-static-seamless; none means all. Every line of JSON is an id's:
how many times as fast as the best of what it is compared with, in the worse of its shapes, beside the ratio
of a kernel at the machine's limit. What each took goes to stderr. --record appends the lines to
`benchmarks/results/<device>/quantization.jsonl`.

Arguments rotate through sets that are larger than the L2 cache. In the chains of calls only the first
argument passes the barrier: were the scales new to XLA in each call, it would not fuse them with its
products, and the products that ours are compared with would be slower than they are.
"""

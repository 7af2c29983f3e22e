"""What each choice in the engine is worth: the same workloads with one choice undone at a time.

    python -m benchmarks.ablation CONFIG_DIR [--only NAME ...] [--record]

What changes which steps there are is an engine in a process of its own (mixed256, output tokens/s; overlap
also b1 and b64-1024, TPOT). What changes a step is measured on a decode step alone, dispatched back to back
(b1 and b64-1024, with half of the outputs there), beside `decode-step`: all of these in one process, so that
the weights are loaded once. A variant that fails is reported, and the others go on. Ids are
`ablation-<model>-<variant>-<workload>`.

For `jax-attention`, whose kernel wants another layout of the cache, each layer has keys and values of that
layout beside its own, which the step writes to as ever. What attention reads there was never computed, so the
tokens mean nothing; the bytes that are moved are those of a step.
"""

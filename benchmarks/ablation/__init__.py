"""What each choice in the engine is worth: the same workloads with one choice undone at a time.

    python -m benchmarks.ablation CONFIG_DIR [--only NAME ...] [--record]

Each variant is an engine in a process of its own; one that fails is reported, and the others go on. Ids are
`ablation-<model>-<variant>-<workload>`. Workloads: b1 and b64-1024 (TPOT) for what changes a step, mixed256 (output
tokens/s) for what changes which steps there are.

The variant `jax-attention` is measured on a decode step alone, beside ours (`decode-step`): jax's kernel wants another
layout of the cache, so each layer has keys and values of that layout beside its own, which the step writes to as ever.
What attention reads there was never computed, so the tokens mean nothing; the bytes that are moved are those of a step.
"""

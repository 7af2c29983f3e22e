"""The same workload on jinfer and, where they are installed, vLLM and transformers, side by side.

    python -m benchmarks.compare CONFIG_DIR WORKLOAD ... [--engines jinfer,vllm,transformers]

CONFIG_DIR has a config.json; weights are random. Workloads are those of `jinfer bench latency` and of `jinfer
bench throughput`, but for arrivals and shared prefixes. Every engine gets the same token ids, temperature
0.6, no end of sequence and no prefix cache, in a process of its own, and is timed in the same way: from
handing in all prompts to having all outputs.
"""

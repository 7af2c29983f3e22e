"""Sampling in Pallas on Triton."""

from pallas_kernels.sampling.triton.launch import sample, top_logprobs

__all__ = ["sample", "top_logprobs"]

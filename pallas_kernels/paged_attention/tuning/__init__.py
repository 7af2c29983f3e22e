"""Block sizes of the Triton kernels, a file per function: tuned numbers where there are any, else a heuristic."""

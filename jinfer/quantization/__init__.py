"""Quantization of a model's own weights: rounding, what calibration tells, and the checkpoint that is
written."""

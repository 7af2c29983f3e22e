"""Formats of quantized checkpoints: what each stores of a Linear, and the float weight that it stands for."""

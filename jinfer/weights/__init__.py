"""Weights from where they are stored to the device: the hub, safetensors, Orbax, and params in memory."""

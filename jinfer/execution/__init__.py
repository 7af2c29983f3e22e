"""The device side: its state, the step functions, and their compiled shapes."""

"""What runs on the device: its state, the step functions, and their compiled shapes."""

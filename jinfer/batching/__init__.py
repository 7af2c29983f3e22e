"""The border between Python objects and arrays: a StepPlan becomes the padded arrays of a compiled shape."""

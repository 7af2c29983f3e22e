"""What kernels in Pallas on Mosaic GPU share. Importing a module of it needs a JAX that has what they use."""

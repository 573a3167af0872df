"""Fast kernels of the inner loop, and the choice of a kernel."""

"""Fast kernels of the inner loop and of Mamba's scan, and the choice of a kernel."""

"""``python -m ttt.bench.gpu``: the Triton kernels on a GPU, in ten minutes, in independent stages."""

"""The inner loop of TTT-Linear and TTT-MLP as Triton kernels: for GPUs, and for CPUs with TRITON_INTERPRET=1.

From Python inwards: `op.py` the operators, `launch.py` tensors to launches, `configurations.py` which kernel is
compiled how for which sizes, then a file a kernel, and `functions.py` what they share. `README.md` derives the backward
passes.
"""

"""The inner loop of TTT-Linear and TTT-MLP as Triton kernels: for GPUs, and for CPUs with TRITON_INTERPRET=1.

From the outside in: `op.py` has the operators of PyTorch, `launch.py` starts the kernels on tensors, `configurations.py`
chooses kernels, types and constants, one file holds each kernel, and `functions.py` holds what they share. `README.md`
derives the backward passes.
"""

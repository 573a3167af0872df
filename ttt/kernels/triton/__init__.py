"""The inner loop of TTT-Linear and TTT-MLP as Triton kernels: for GPUs, and for CPUs with TRITON_INTERPRET=1.

From the outside in: `op.py` has the operators of PyTorch, `launch.py` starts kernels on tensors, `configurations.py`
chooses kernels, types and constants, and each kernel has a file; they share `functions.py`. `README.md` derives the
backward passes and explains the names. `compile.py` and `counts.py` serve `ttt-bench kernels`.
"""

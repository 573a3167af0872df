"""The inner loop of TTT-Linear and TTT-MLP in C++, compiled on the machine that runs it.

From Python inwards: `op.py` the operator, `build.py` its compilation, `operator.cpp` tensors to pointers, `scan.h` from
mini-batch to mini-batch, `forms.h` one mini-batch of either inner model, `dual_layer.h` one layer of it, `multiply.h`
and `simd.h` what is fast.
"""

"""The inner loop of TTT-Linear and TTT-MLP in C++, compiled on the machine that runs it.

From the outside inwards: `op.py` the operator, `build.py` its compilation, `operator.cpp` from tensors to pointers,
`scan.h` the loop over mini-batches, `inner_models.h` one mini-batch of either inner model, `dual_layer.h` one of its
layers, `multiply.h` and `simd.h` the fast primitives.
"""

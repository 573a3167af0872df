"""The inner loop of TTT-Linear and TTT-MLP, Mamba's selective scan and the causal convolution, in C++ compiled here.

The inner loop, from the outside inwards: `op.py` the operator, `operator.cpp` from tensors to pointers, `scan.h` the
loop over mini-batches, `inner_models.h` one mini-batch of either inner model, `dual_layer.h` one of its layers,
`multiply.h` the matrix products. The selective scan: `selective_scan.py` the operator, `selective_scan.cpp` from
tensors to pointers, `selective_scan.h` both passes; the convolution's three files likewise. All use `build.py`, the
compilation, and `tensors.h`; the first two `memory.h` and `simd.h`, the fast primitives.
"""

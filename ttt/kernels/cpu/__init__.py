"""The inner loop, Mamba's scan, the convolution, norms, gates and decoding, in C++ compiled here.

The inner loop, from the outside inwards: `op.py` the operator, `operator.cpp` from tensors to pointers, `scan.h` the
loop over mini-batches, `inner_models.h` one mini-batch of either inner model, `rotation.h` its RoPE, `dual_layer.h` one
of its layers, `multiply.h` the matrix products. The selective scan: `selective_scan.py` the operator,
`selective_scan.cpp` from tensors to pointers, `selective_scan.h` both passes, `channel_scan.h` what they share; the
three files of the convolution and of `pointwise`, norms and gates, likewise. One token of decoding: `decode.py` the
list of a model's steps, `decode.cpp` from tensors to pointers, `decode.h` the steps, `decode_inner.h` those of the
inner loop. All use `build.py`, the compilation, and `tensors.h`; all but the convolution `simd.h`, the fast primitives.
"""

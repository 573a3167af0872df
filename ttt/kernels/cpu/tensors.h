// What both operators need to give tensors to a kernel as pointers.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

namespace ttt {

using at::Tensor;

// Returns x dense from axis `from` on, so that a pointer to one head's (or one token's) numbers is enough.
inline Tensor dense(const Tensor& x, int64_t from) {
    int64_t expected = 1;
    for (int64_t axis = x.dim() - 1; axis >= from; axis--) {
        if (x.size(axis) != 1 && x.stride(axis) != expected) return x.contiguous();
        expected *= x.size(axis);
    }
    return x;
}

inline void expect_shape(const Tensor& x, at::IntArrayRef shape) {
    TORCH_CHECK(x.sizes() == shape, "a tensor has the shape ", x.sizes(), " instead of ", shape);
}

// Runs `work` for float or double, the type of the tensors.
template <class Work>
void with_type(const Tensor& x, Work work) {
    if (x.scalar_type() == at::kFloat) return work(float());
    TORCH_CHECK(x.scalar_type() == at::kDouble, "the kernel is for float32 and float64, not ", x.scalar_type());
    work(double());
}

// Returns the sum over `from`'s first axis, in the same order for any number of threads.
inline Tensor sum_first(const Tensor& from, at::IntArrayRef shape) {
    const Tensor sum = at::zeros(shape, from.options());
    const int64_t numbers = sum.numel(), rows = numbers ? from.numel() / numbers : 0;
    with_type(from, [&](auto zero) {
        using T = decltype(zero);
        const T* x = from.const_data_ptr<T>();
        T* to = sum.data_ptr<T>();
        for (int64_t row = 0; row < rows; row++, x += numbers) {
            for (int64_t i = 0; i < numbers; i++) to[i] += x[i];
        }
    });
    return sum;
}

}  // namespace ttt

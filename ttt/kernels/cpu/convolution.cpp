// The causal convolution as the operators ttt_cpu::causal_conv and ttt_cpu::causal_conv_backward.
// convolution.py has their schemas, their fake versions and their registration with autograd.
//
// Shapes: B batch, T tokens, C channels, K taps.
#include "convolution.h"
#include "tensors.h"

namespace ttt {
namespace {

// All inputs as the kernel can read them.
struct Tensors {
    Tensor x, w, bias, before;

    Tensors(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& before)
        : x(dense(x, 2)), w(weight.t().contiguous()), bias(bias.contiguous()), before(dense(before, 2)) {
        TORCH_CHECK(x.dim() == 3, "x is [B, T, C], not ", x.sizes());
        TORCH_CHECK(weight.dim() == 2, "weight is [C, K], not ", weight.sizes());
        expect_shape(weight, {x.size(2), weight.size(1)});
        expect_shape(bias, {x.size(2)});
        expect_shape(before, {x.size(0), weight.size(1) - 1, x.size(2)});
    }

    ConvSizes sizes() const { return {x.size(0), x.size(1), x.size(2), w.size(0)}; }
    Tensor empty(at::IntArrayRef shape) const { return at::empty(shape, x.options()); }
};

template <class T>
Rows<T> rows(const Tensor& x) {
    return {x.data_ptr<T>(), x.stride(0), x.stride(1)};
}

template <class T>
Rows<const T> read_rows(const Tensor& x) {
    return {x.const_data_ptr<T>(), x.stride(0), x.stride(1)};
}

template <class T, class Work>
void run_tasks(const Tensors& given, const Work& work) {
    const ConvInputs<T> in{
        given.sizes(), read_rows<T>(given.x), read_rows<T>(given.before), given.w.const_data_ptr<T>(),
        given.bias.const_data_ptr<T>(),
    };
    at::parallel_for(0, in.sizes.B * in.sizes.groups(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; task++) work(ConvTask<T>(in, task), task / in.sizes.groups());
    });
}

Tensor forward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& before) {
    const Tensors given(x, weight, bias, before);
    const Tensor y = given.empty(x.sizes());
    with_type(x, [&](auto zero) {
        using T = decltype(zero);
        run_tasks<T>(given, [&](const ConvTask<T>& task, int64_t) { task.forward(rows<T>(y)); });
    });
    return y;
}

// Returns the gradients of x, weight, bias and before.
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& dy_any, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& before
) {
    const Tensors given(x, weight, bias, before);
    const ConvSizes sizes = given.sizes();
    expect_shape(dy_any, x.sizes());
    const Tensor dy = dense(dy_any, 2), dx = given.empty(x.sizes()), dbefore = given.empty(before.sizes());
    const Tensor dw = given.empty({sizes.B, sizes.K, sizes.C}), dbias = given.empty({sizes.B, sizes.C});
    with_type(x, [&](auto zero) {
        using T = decltype(zero);
        run_tasks<T>(given, [&](const ConvTask<T>& task, int64_t b) {
            T* const dw_of_b = dw.data_ptr<T>() + b * sizes.K * sizes.C;
            T* const dbias_of_b = dbias.data_ptr<T>() + b * sizes.C;
            task.backward(read_rows<T>(dy), rows<T>(dx), rows<T>(dbefore), dw_of_b, dbias_of_b);
        });
    });
    return {dx, sum_first(dw, {sizes.K, sizes.C}).t(), sum_first(dbias, {sizes.C}), dbefore};
}

}  // namespace
}  // namespace ttt

TORCH_LIBRARY_IMPL(ttt_cpu, CPU, library) {
    library.impl("causal_conv", &ttt::forward);
    library.impl("causal_conv_backward", &ttt::backward);
}

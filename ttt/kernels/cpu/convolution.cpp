// The causal convolutions as the operators ttt_cpu::causal_conv and ttt_cpu::causal_conv_backward.
// convolution.py has their schemas, their fake versions and their registration with autograd.
//
// Shapes: F filters, B batch, T tokens, C channels, K taps.
#include "convolution.h"
#include "tensors.h"

namespace ttt {
namespace {

using std::vector;

// All inputs as the kernel can read them.
struct Tensors {
    Tensor x;
    vector<Tensor> w, bias, before;

    Tensors(const Tensor& x_any, at::TensorList weights, at::TensorList biases, at::TensorList before_any)
        : x(dense(x_any, 2)) {
        TORCH_CHECK(x.dim() == 3, "x is [B, T, C], not ", x.sizes());
        TORCH_CHECK(weights.size() && weights[0].dim() == 2, "a weight is [C, K]");
        TORCH_CHECK(
            biases.size() == weights.size() && before_any.size() == weights.size(),
            "each filter has a weight, a bias and the tokens before the first"
        );
        const int64_t B = x.size(0), C = x.size(2), K = weights[0].size(1);
        for (size_t f = 0; f < weights.size(); f++) {
            expect_shape(weights[f], {C, K});
            expect_shape(biases[f], {C});
            expect_shape(before_any[f], {B, K - 1, C});
            w.push_back(weights[f].t().contiguous());
            bias.push_back(biases[f].contiguous());
            before.push_back(dense(before_any[f], 2));
        }
    }

    ConvSizes sizes() const { return {x.size(0), x.size(1), x.size(2), w[0].size(0)}; }

    // Allocates a tensor for each filter.
    vector<Tensor> for_each(at::IntArrayRef shape) const {
        vector<Tensor> all;
        for (size_t f = 0; f < w.size(); f++) all.push_back(at::empty(shape, x.options()));
        return all;
    }
};

template <class T>
Rows<T> rows(const Tensor& x) {
    return {x.data_ptr<T>(), x.stride(0), x.stride(1)};
}

template <class T>
Rows<const T> read_rows(const Tensor& x) {
    return {x.const_data_ptr<T>(), x.stride(0), x.stride(1)};
}

// Runs work(task, number) for all tasks.
template <class T, class Work>
void run_tasks(const Tensors& given, const Work& work) {
    const ConvSizes sizes = given.sizes();
    vector<Filter<T>> filters;
    for (size_t f = 0; f < given.w.size(); f++) {
        const T* const w = given.w[f].const_data_ptr<T>();
        filters.push_back({w, given.bias[f].const_data_ptr<T>(), read_rows<T>(given.before[f])});
    }
    at::parallel_for(0, sizes.B * sizes.parts(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t number = begin; number < end; number++) {
            ConvTask<T> task(sizes, read_rows<T>(given.x), filters, number);
            work(task, number);
        }
    });
}

vector<Tensor> forward(const Tensor& x, at::TensorList weights, at::TensorList biases, at::TensorList before) {
    const Tensors given(x, weights, biases, before);
    const vector<Tensor> y = given.for_each(x.sizes());
    with_type(x, [&](auto zero) {
        using T = decltype(zero);
        vector<Rows<T>> to;
        for (const Tensor& each : y) to.push_back(rows<T>(each));
        run_tasks<T>(given, [&](ConvTask<T>& task, int64_t) { task.forward(to); });
    });
    return y;
}

// Returns the gradients of x, the weights, the biases and the tokens before the first.
std::tuple<Tensor, vector<Tensor>, vector<Tensor>, vector<Tensor>> backward(
    at::TensorList dy_any, const Tensor& x, at::TensorList weights, at::TensorList biases, at::TensorList before
) {
    const Tensors given(x, weights, biases, before);
    const auto [B, T, C, K] = given.sizes();
    TORCH_CHECK(dy_any.size() == weights.size(), "each filter has an upstream gradient");
    vector<Tensor> dy;
    for (const Tensor& each : dy_any) {
        expect_shape(each, x.sizes());
        dy.push_back(dense(each, 2));
    }
    const Tensor dx = at::empty(x.sizes(), x.options());
    const vector<Tensor> dbefore = given.for_each({B, K - 1, C});
    // Sums of gradients, K rows for w and one for the bias for each task.
    const int64_t F = dy.size(), tasks = B * given.sizes().parts();
    const Tensor sums = at::zeros({tasks, F, K + 1, C}, x.options());
    with_type(x, [&](auto zero) {
        using Number = decltype(zero);
        run_tasks<Number>(given, [&](ConvTask<Number>& task, int64_t number) {
            vector<FilterGradients<Number>> gradients;
            for (int64_t f = 0; f < F; f++) {
                Number* const sum = sums.data_ptr<Number>() + (number * F + f) * (K + 1) * C;
                gradients.push_back({read_rows<Number>(dy[f]), rows<Number>(dbefore[f]), sum, sum + K * C});
            }
            task.backward(gradients, rows<Number>(dx));
        });
    });
    const Tensor total = sum_first(sums, {F, K + 1, C});
    vector<Tensor> dw, dbias;
    for (int64_t f = 0; f < F; f++) {
        dw.push_back(total[f].slice(0, 0, K).t().contiguous());
        dbias.push_back(total[f][K].clone());
    }
    return {dx, dw, dbias, dbefore};
}

}  // namespace
}  // namespace ttt

TORCH_LIBRARY_IMPL(ttt_cpu, CPU, library) {
    library.impl("causal_conv", &ttt::forward);
    library.impl("causal_conv_backward", &ttt::backward);
}

// Norms and gates as the operators ttt_cpu::rms_norm, sum_rms_norm, gated_norm, gated_product and their backward passes.
// pointwise.py has their schemas, their fake versions and their registration with autograd.
//
// Shapes: C channels, the last axis; all other axes are rows.
#include "pointwise.h"
#include "tensors.h"

namespace ttt {
namespace {

using std::optional;

// Rows of a task; sums over rows do not depend on the number of threads, because tasks do not.
constexpr int64_t TASK_ROWS = 128;

int64_t tasks_of(int64_t rows) { return (rows + TASK_ROWS - 1) / TASK_ROWS; }

// Runs work(row, task) for all rows, those of a task in order.
template <class Work>
void for_rows(int64_t rows, const Work& work) {
    at::parallel_for(0, tasks_of(rows), 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; task++) {
            for (int64_t row = task * TASK_ROWS; row < std::min(rows, (task + 1) * TASK_ROWS); row++) work(row, task);
        }
    });
}

int64_t channels(const Tensor& x) {
    TORCH_CHECK(x.dim() > 0 && x.size(-1) > 0, "the last axis has the channels, not ", x.sizes());
    return x.size(-1);
}

int64_t rows_of(const Tensor& x) { return x.numel() / channels(x); }

// The rows of a contiguous tensor, by number. No tensor: rows without numbers.
template <class T>
struct ReadRows {
    const T* at = nullptr;
    long C = 0;

    explicit ReadRows(const Tensor& x) : at(x.const_data_ptr<T>()), C(channels(x)) {}
    explicit ReadRows(const optional<Tensor>& x) {
        if (x) *this = ReadRows(*x);
    }
    Read<T> operator[](long row) const { return {at + row * C, C}; }
};

template <class T>
struct WriteRows {
    T* at;
    long C;

    explicit WriteRows(const Tensor& x) : at(x.data_ptr<T>()), C(channels(x)) {}
    Row<T> operator[](long row) const { return {at + row * C, C}; }
};

Tensor empty_like(const Tensor& x) { return at::empty(x.sizes(), x.options()); }

// Sums of gradients, one row for each task.
Tensor shares(const Tensor& x, const Tensor& weight) {
    return at::zeros({tasks_of(rows_of(x)), weight.numel()}, x.options());
}

Tensor rms_norm_forward(const Tensor& x_any, const Tensor& weight_any, double eps) {
    const Tensor x = x_any.contiguous(), weight = weight_any.contiguous(), y = empty_like(x);
    expect_shape(weight, {channels(x)});
    with_type(x, [&](auto zero) {
        using T = decltype(zero);
        const ReadRows<T> from(x), scale(weight);
        const WriteRows<T> to(y);
        for_rows(rows_of(x), [&](int64_t row, int64_t) { rms_norm<T>(from[row], scale[0], eps, to[row]); });
    });
    return y;
}

// Returns h + y and its norm.
std::tuple<Tensor, Tensor> sum_rms_norm_forward(
    const Tensor& h_any, const Tensor& y_any, const Tensor& weight_any, double eps
) {
    const Tensor h = h_any.contiguous(), y = y_any.contiguous(), weight = weight_any.contiguous();
    const Tensor sum = empty_like(h), normed = empty_like(h);
    expect_shape(y, h.sizes());
    expect_shape(weight, {channels(h)});
    with_type(h, [&](auto zero) {
        using T = decltype(zero);
        const ReadRows<T> before(h), added(y), scale(weight);
        const WriteRows<T> to_sum(sum), to(normed);
        for_rows(rows_of(h), [&](int64_t row, int64_t) {
            add<T>(before[row], added[row], to_sum[row]);
            rms_norm<T>({to_sum[row].at, to_sum[row].C}, scale[0], eps, to[row]);
        });
    });
    return {sum, normed};
}

// Returns the gradients of x, to which dx_before is added if it is given, and of weight.
std::tuple<Tensor, Tensor> rms_norm_backward_pass(
    const Tensor& dy_any, const optional<Tensor>& dx_before_any, const Tensor& x_any, const Tensor& weight_any,
    double eps
) {
    const Tensor dy = dy_any.contiguous(), x = x_any.contiguous(), weight = weight_any.contiguous();
    const optional<Tensor> dx_before = dx_before_any ? optional<Tensor>(dx_before_any->contiguous()) : std::nullopt;
    expect_shape(dy, x.sizes());
    if (dx_before) expect_shape(*dx_before, x.sizes());
    expect_shape(weight, {channels(x)});
    const Tensor dx = empty_like(x), dweight = shares(x, weight);
    with_type(x, [&](auto zero) {
        using T = decltype(zero);
        const ReadRows<T> upstream(dy), before(dx_before), input(x), scale(weight);
        const WriteRows<T> to(dx), sums(dweight);
        for_rows(rows_of(x), [&](int64_t row, int64_t task) {
            rms_norm_backward<T>(upstream[row], before[row], input[row], scale[0], eps, to[row], sums[task]);
        });
    });
    return {dx, sum_first(dweight, weight.sizes())};
}

Tensor gated_norm_forward(
    const Tensor& x_any, const Tensor& gate_any, const Tensor& weight_any, const Tensor& bias_any, double eps
) {
    const Tensor x = x_any.contiguous(), gate = gate_any.contiguous(), y = empty_like(x);
    const Tensor weight = weight_any.contiguous(), bias = bias_any.contiguous();
    expect_shape(gate, x.sizes());
    for (const Tensor& each : {weight, bias}) expect_shape(each, {channels(x)});
    with_type(x, [&](auto zero) {
        using T = decltype(zero);
        const ReadRows<T> from(x), by(gate), scale(weight), shift(bias);
        const WriteRows<T> to(y);
        for_rows(rows_of(x), [&](int64_t row, int64_t) {
            gated_norm<T>(from[row], by[row], scale[0], shift[0], eps, to[row]);
        });
    });
    return y;
}

// Returns the gradients of x, gate, weight and bias.
std::tuple<Tensor, Tensor, Tensor, Tensor> gated_norm_backward_pass(
    const Tensor& dy_any, const Tensor& x_any, const Tensor& gate_any, const Tensor& weight_any,
    const Tensor& bias_any, double eps
) {
    const Tensor dy = dy_any.contiguous(), x = x_any.contiguous(), gate = gate_any.contiguous();
    const Tensor weight = weight_any.contiguous(), bias = bias_any.contiguous();
    for (const Tensor& each : {dy, gate}) expect_shape(each, x.sizes());
    for (const Tensor& each : {weight, bias}) expect_shape(each, {channels(x)});
    const Tensor dx = empty_like(x), dgate = empty_like(x), dweight = shares(x, weight), dbias = shares(x, bias);
    with_type(x, [&](auto zero) {
        using T = decltype(zero);
        const ReadRows<T> upstream(dy), from(x), by(gate), scale(weight), shift(bias);
        const WriteRows<T> to_x(dx), to_gate(dgate), to_scale(dweight), to_shift(dbias);
        for_rows(rows_of(x), [&](int64_t row, int64_t task) {
            gated_norm_backward<T>(
                upstream[row], from[row], by[row], scale[0], shift[0], eps, to_x[row], to_gate[row], to_scale[task],
                to_shift[task]
            );
        });
    });
    return {dx, dgate, sum_first(dweight, weight.sizes()), sum_first(dbias, bias.sizes())};
}

Tensor gated_product_forward(const Tensor& gate_any, const Tensor& up_any) {
    const Tensor gate = gate_any.contiguous(), up = up_any.contiguous(), product = empty_like(gate);
    expect_shape(up, gate.sizes());
    with_type(gate, [&](auto zero) {
        using T = decltype(zero);
        const ReadRows<T> by(gate), factor(up);
        const WriteRows<T> to(product);
        for_rows(rows_of(gate), [&](int64_t row, int64_t) { gated_product<T>(by[row], factor[row], to[row]); });
    });
    return product;
}

// Returns the gradients of gate and up, and the product.
std::tuple<Tensor, Tensor, Tensor> gated_product_backward_pass(
    const Tensor& upstream_any, const Tensor& gate_any, const Tensor& up_any
) {
    const Tensor upstream = upstream_any.contiguous(), gate = gate_any.contiguous(), up = up_any.contiguous();
    for (const Tensor& each : {upstream, up}) expect_shape(each, gate.sizes());
    const Tensor dgate = empty_like(gate), dup = empty_like(gate), product = empty_like(gate);
    with_type(gate, [&](auto zero) {
        using T = decltype(zero);
        const ReadRows<T> d(upstream), by(gate), factor(up);
        const WriteRows<T> to_gate(dgate), to_up(dup), to_product(product);
        for_rows(rows_of(gate), [&](int64_t row, int64_t) {
            gated_product_backward<T>(d[row], by[row], factor[row], to_gate[row], to_up[row], to_product[row]);
        });
    });
    return {dgate, dup, product};
}

}  // namespace
}  // namespace ttt

TORCH_LIBRARY_IMPL(ttt_cpu, CPU, library) {
    library.impl("rms_norm", &ttt::rms_norm_forward);
    library.impl("sum_rms_norm", &ttt::sum_rms_norm_forward);
    library.impl("rms_norm_backward", &ttt::rms_norm_backward_pass);
    library.impl("gated_norm", &ttt::gated_norm_forward);
    library.impl("gated_norm_backward", &ttt::gated_norm_backward_pass);
    library.impl("gated_product", &ttt::gated_product_forward);
    library.impl("gated_product_backward", &ttt::gated_product_backward_pass);
}

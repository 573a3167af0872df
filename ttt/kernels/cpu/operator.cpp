// The inner loop as the operators ttt_cpu::forward and ttt_cpu::backward. op.py has their schemas, their fake versions
// and their registration with autograd.
//
// Shapes: B batch, H heads, T tokens, D head width, b mini-batch size, F hidden width of TTT-MLP.
#include "kernel.h"
#include "tensors.h"

namespace ttt {
namespace {

using std::optional;
using std::vector;

// All inputs as the kernel can read them.
struct Tensors {
    vector<Tensor> W;
    Tensor scale, shift, q, k, v, eta, tau;
    optional<Tensor> rotation;

    Tensors(at::TensorList W_any, const Tensor& scale, const Tensor& shift, const Tensor& q, const Tensor& k,
            const Tensor& v, const Tensor& eta, const Tensor& tau, const optional<Tensor>& rotation_any)
        : scale(scale.contiguous()), shift(shift.contiguous()), q(dense(q, 3)), k(dense(k, 3)), v(dense(v, 3)),
          eta(eta), tau(tau.contiguous()) {
        for (const Tensor& w : W_any) W.push_back(dense(w, 2));
        if (rotation_any) rotation = rotation_any->contiguous();
        check_sizes();
    }

    int64_t B() const { return q.size(0); }
    int64_t H() const { return q.size(1); }
    int64_t T() const { return q.size(2); }
    int64_t D() const { return q.size(3); }

    Sizes sizes(int64_t group, bool bias) const {
        const int64_t b = tau.numel();
        return {int(D()), W.size() == 4 ? int(W[0].size(3)) : 0, int(b), int(H()), T() / b, group, bias};
    }

    // Allocates [B, H, T, D] with the heads of a token adjacent, as in the projections before and after the layer.
    Tensor heads_together() const { return at::empty({B(), T(), H(), D()}, q.options()).transpose(1, 2); }

    // The kernel does not check sizes.
    void check_sizes() const {
        const int64_t b = tau.numel();
        TORCH_CHECK(q.dim() == 4 && D() > 0 && D() % 16 == 0, "q is [B, H, T, 16 n], not ", q.sizes());
        TORCH_CHECK(1 <= b && b <= 64 && T() % b == 0, "T = ", T(), " is no multiple of b = ", b, ", or b is over 64");
        TORCH_CHECK(W.size() == 2 || W.size() == 4, "W has 2 or 4 tensors, not ", W.size());
        TORCH_CHECK(W[0].dim() == 4, "W1 is [B, H, D, O], not ", W[0].sizes());
        const int64_t O = W[0].size(3), F = W.size() == 4 ? O : D();
        TORCH_CHECK(O == F && O > 0 && O % 16 == 0, "the first layer has ", O, " outputs, not D or a multiple of 16");
        const vector<int64_t> shapes[] = {{B(), H(), D(), O}, {B(), H(), 1, O}, {B(), H(), F, D()}, {B(), H(), 1, D()}};
        for (size_t i = 0; i < W.size(); i++) expect_shape(W[i], shapes[i]);
        for (const Tensor& x : {k, v}) expect_shape(x, q.sizes());
        for (const Tensor& x : {scale, shift}) expect_shape(x, {H(), 1, D()});
        expect_shape(eta, {B(), H(), T()});
        if (rotation) expect_shape(*rotation, {b, D()});
    }

    vector<Tensor> like_W() const {
        vector<Tensor> all;
        for (const Tensor& w : W) all.push_back(at::empty(w.sizes(), w.options()));
        return all;
    }
};

template <class T>
Sequences<T> sequences(const Tensor& x) {
    return {x.data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2)};
}

template <class T>
Sequences<const T> read_sequences(const Tensor& x) {
    return {x.const_data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2)};
}

template <class T>
Parameters<T> parameters(const vector<Tensor>& W) {
    Parameters<T> all;
    for (size_t i = 0; i < W.size(); i++) all.tensors[i] = sequences<T>(W[i]);
    return all;
}

template <class T>
Parameters<const T> read_parameters(const vector<Tensor>& W) {
    Parameters<const T> all;
    for (size_t i = 0; i < W.size(); i++) all.tensors[i] = read_sequences<T>(W[i]);
    return all;
}

template <class T>
Inputs<T> inputs(const Tensors& x, const Sizes& sizes) {
    return {
        sizes, read_parameters<T>(x.W),
        read_sequences<T>(x.q), read_sequences<T>(x.k), read_sequences<T>(x.v), read_sequences<T>(x.eta),
        x.tau.const_data_ptr<T>(), x.scale.const_data_ptr<T>(), x.shift.const_data_ptr<T>(),
        x.rotation ? x.rotation->const_data_ptr<T>() : nullptr,
    };
}

std::tuple<Tensor, vector<Tensor>, Tensor> forward(
    at::TensorList W, const Tensor& scale, const Tensor& shift, const Tensor& q, const Tensor& k, const Tensor& v,
    const Tensor& eta, const Tensor& tau, const optional<Tensor>& rotation, int64_t group, bool bias, bool keep
) {
    const Tensors x(W, scale, shift, q, k, v, eta, tau, rotation);
    const Sizes sizes = x.sizes(group, bias);
    const Tensor z = x.heads_together();
    const vector<Tensor> W_last = x.like_W();
    const Tensor kept = at::empty({keep ? x.B() : 0, x.H(), sizes.groups(), sizes.state_numbers()}, q.options());
    with_type(q, [&](auto zero) {
        using T = decltype(zero);
        T* const kept_here = keep ? kept.data_ptr<T>() : nullptr;
        const Forward<T> call{inputs<T>(x, sizes), sequences<T>(z), parameters<T>(W_last), kept_here};
        at::parallel_for(0, x.B() * x.H(), 1, [&](int64_t begin, int64_t end) { forward_pairs(call, begin, end); });
    });
    return {z, W_last, kept};
}

// Returns the gradients of W, scale, shift, q, k, v, eta and tau.
std::tuple<vector<Tensor>, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& dz_any, at::TensorList dW_last_any, const Tensor& kept, at::TensorList W, const Tensor& scale,
    const Tensor& shift, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& eta, const Tensor& tau,
    const optional<Tensor>& rotation, int64_t group, bool bias
) {
    const Tensors x(W, scale, shift, q, k, v, eta, tau, rotation);
    const Sizes sizes = x.sizes(group, bias);
    const Tensor dz = dense(dz_any, 3);
    vector<Tensor> dW_last;
    for (const Tensor& w : dW_last_any) dW_last.push_back(dense(w, 2));
    const Tensor dq = x.heads_together(), dk = x.heads_together(), dv = x.heads_together();
    const vector<Tensor> dW = x.like_W();
    const int64_t B = x.B(), H = x.H(), D = x.D(), b = tau.numel();
    const Tensor deta = at::empty({B, H, x.T()}, q.options()), dtau = at::empty({B * H, b}, q.options());
    const Tensor dscale = at::empty({B, H, D}, q.options()), dshift = at::empty({B, H, D}, q.options());
    with_type(q, [&](auto zero) {
        using T = decltype(zero);
        const Backward<T> call{
            inputs<T>(x, sizes), kept.const_data_ptr<T>(), read_sequences<T>(dz), read_parameters<T>(dW_last),
            sequences<T>(dq), sequences<T>(dk), sequences<T>(dv), sequences<T>(deta), parameters<T>(dW),
            dtau.data_ptr<T>(), dscale.data_ptr<T>(), dshift.data_ptr<T>(),
        };
        at::parallel_for(0, B * H, 1, [&](int64_t begin, int64_t end) { backward_pairs(call, begin, end); });
    });
    return {dW, sum_first(dscale, {H, 1, D}), sum_first(dshift, {H, 1, D}), dq, dk, dv, deta, sum_first(dtau, {b})};
}

}  // namespace
}  // namespace ttt

TORCH_LIBRARY_IMPL(ttt_cpu, CPU, library) {
    library.impl("forward", &ttt::forward);
    library.impl("backward", &ttt::backward);
}

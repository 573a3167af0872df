// Mamba's selective scan with its gate as the operators ttt_cpu::selective_scan and ttt_cpu::selective_scan_backward.
// selective_scan.py has their schemas, their fake versions and their registration with autograd.
//
// Shapes: B batch, T tokens, E channels, N state size.
#include "selective_scan.h"
#include "tensors.h"

namespace ttt {
namespace {

// Returns a tensor [B, T, X] whose tokens or entries are adjacent.
Tensor readable(const Tensor& x) { return x.stride(2) == 1 || x.stride(1) == 1 ? x : x.contiguous(); }

// All inputs as the kernel can read them.
struct Tensors {
    Tensor u, dt, A, B, C, D, z, bias;

    Tensors(
        const Tensor& u, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C, const Tensor& D,
        const Tensor& z, const Tensor& bias
    )
        : u(u), dt(dt), A(A.contiguous()), B(dense(B, 2)), C(dense(C, 2)), D(D.contiguous()), z(z),
          bias(bias.contiguous()) {
        TORCH_CHECK(u.dim() == 3, "u is [B, T, E], not ", u.sizes());
        TORCH_CHECK(A.dim() == 2, "A is [E, N], not ", A.sizes());
        for (const Tensor& x : {dt, z}) expect_shape(x, u.sizes());
        expect_shape(A, {u.size(2), A.size(1)});
        for (const Tensor& x : {B, C}) expect_shape(x, {u.size(0), u.size(1), A.size(1)});
        for (const Tensor& x : {D, bias}) expect_shape(x, {u.size(2)});
        for (Tensor* x : {&this->u, &this->dt, &this->z}) *x = readable(*x);
    }

    ScanSizes sizes() const { return {u.size(0), u.size(1), u.size(2), A.size(1)}; }
    at::IntArrayRef states() const { return {shape_of_states, 3}; }
    Tensor empty(at::IntArrayRef shape) const { return at::empty(shape, u.options()); }

    // Returns [B, T, E] with the entries adjacent if they are in x, else the tokens, as after a convolution.
    Tensor empty_like(const Tensor& x) const {
        return x.stride(2) == 1 ? empty(x.sizes()) : empty({x.size(0), x.size(2), x.size(1)}).transpose(1, 2);
    }

    const int64_t shape_of_states[3] = {u.size(0), u.size(2), A.size(1)};
};

template <class T>
Tokens<T> tokens(const Tensor& x) {
    return {x.data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2)};
}

template <class T>
Tokens<const T> read_tokens(const Tensor& x) {
    return {x.const_data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2)};
}

template <class T>
ScanInputs<T> inputs(const Tensors& x, const T* h) {
    return {
        x.sizes(), read_tokens<T>(x.u), read_tokens<T>(x.dt), read_tokens<T>(x.B), read_tokens<T>(x.C),
        read_tokens<T>(x.z), x.A.const_data_ptr<T>(), x.D.const_data_ptr<T>(), x.bias.const_data_ptr<T>(), h,
    };
}

template <class Pass, class Call>
void run_tasks(const Call& call) {
    const ScanSizes& sizes = call.in.sizes;
    at::parallel_for(0, sizes.B * sizes.groups(), 1, [&](int64_t begin, int64_t end) {
        Pass pass(call);
        for (int64_t task = begin; task < end; task++) pass.run(task);
    });
}

// Returns the output, the last state, and the states that the backward pass needs.
std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& u, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C, const Tensor& D,
    const Tensor& z, const Tensor& bias, const Tensor& h_any, bool keep
) {
    const Tensors x(u, dt, A, B, C, D, z, bias);
    const ScanSizes sizes = x.sizes();
    expect_shape(h_any, x.states());
    const Tensor h = h_any.contiguous(), out = x.empty(u.sizes()), h_last = x.empty(x.states());
    const int64_t kept_sequences = keep ? sizes.B : 0;
    const Tensor kept = at::zeros({kept_sequences, sizes.segments(), sizes.kept_N(), sizes.kept_E()}, u.options());
    with_type(u, [&](auto zero) {
        using T = decltype(zero);
        T* const kept_here = keep ? kept.data_ptr<T>() : nullptr;
        const auto in = inputs<T>(x, h.const_data_ptr<T>());
        run_tasks<ScanForwardPass<T>>(ScanForward<T>{in, tokens<T>(out), h_last.data_ptr<T>(), kept_here});
    });
    return {out, h_last, kept};
}

// Returns the gradients of u, dt, A, B, C, D, z, bias and h.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& dout_any, const Tensor& dh_last_any, const Tensor& kept, const Tensor& u, const Tensor& dt,
    const Tensor& A, const Tensor& B, const Tensor& C, const Tensor& D, const Tensor& z, const Tensor& bias
) {
    const Tensors x(u, dt, A, B, C, D, z, bias);
    const ScanSizes sizes = x.sizes();
    const Tensor dout = readable(dout_any), dh_last = dh_last_any.contiguous();
    const Tensor du = x.empty_like(x.u), ddt = x.empty_like(x.dt), dz = x.empty_like(x.z), dh = x.empty(x.states());
    const Tensor dA = x.empty(x.states()), dD = x.empty({sizes.B, sizes.E}), dbias = x.empty({sizes.B, sizes.E});
    const Tensor dB = x.empty({sizes.groups(), sizes.B, sizes.T, sizes.N}), dC = x.empty(dB.sizes());
    with_type(u, [&](auto zero) {
        using T = decltype(zero);
        run_tasks<ScanBackwardPass<T>>(ScanBackward<T>{
            inputs<T>(x, nullptr), kept.const_data_ptr<T>(), read_tokens<T>(dout), dh_last.const_data_ptr<T>(),
            tokens<T>(du), tokens<T>(ddt), tokens<T>(dz), dA.data_ptr<T>(), dB.data_ptr<T>(), dC.data_ptr<T>(),
            dD.data_ptr<T>(), dbias.data_ptr<T>(), dh.data_ptr<T>(),
        });
    });
    const auto sum = [](const Tensor& parts) { return sum_first(parts, parts.sizes().slice(1)); };
    return {du, ddt, sum(dA), sum(dB), sum(dC), sum(dD), dz, sum(dbias), dh};
}

}  // namespace
}  // namespace ttt

TORCH_LIBRARY_IMPL(ttt_cpu, CPU, library) {
    library.impl("selective_scan", &ttt::forward);
    library.impl("selective_scan_backward", &ttt::backward);
}

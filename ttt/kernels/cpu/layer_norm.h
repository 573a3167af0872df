// The LN of the inner model, the gradient of the loss through it, and the derivatives of both.
//
// Shapes: D head width, N padded tokens of a mini-batch. All matrices are [D, N], one token per lane, so that means
// over D are sums of vectors. `unit` is LN's input with mean 0 and variance 1.
#pragma once

#include "simd.h"

namespace ttt {

constexpr double LAYER_NORM_EPS = 1e-6;

// One vector of lanes of a matrix [D, N]: index d is its row d.
template <class T>
struct Lanes {
    T* at;
    int N;

    INLINE Vector<T> operator[](int d) const { return load<T>(at + d * N); }
    INLINE void set(int d, Vector<T> x) const { store<T>(at + d * N, x); }
};

// x becomes rstd * (x - mean(x) - unit * mean(x * unit)): the derivative of standardising, which is symmetric.
template <class T>
INLINE void project(int D, Lanes<T> x, Lanes<const T> unit, Vector<T> rstd) {
    Vector<T> mean{}, along{};
    for (int d = 0; d < D; d++) {
        mean += x[d];
        along += x[d] * unit[d];
    }
    mean /= T(D), along /= T(D);
    for (int d = 0; d < D; d++) x.set(d, rstd * (x[d] - mean - unit[d] * along));
}

// x becomes unit; rstd [N] is the reciprocal standard deviation of x.
template <class T>
void standardise(int D, int N, T* x_DN, T* rstd_N) {
    for (int lane = 0; lane < N; lane += LANES<T>) {
        const Lanes<T> x{x_DN + lane, N};
        Vector<T> mean{}, variance{};
        for (int d = 0; d < D; d++) mean += x[d];
        mean /= T(D);
        for (int d = 0; d < D; d++) variance += (x[d] - mean) * (x[d] - mean);
        const Vector<T> rstd = reciprocal_root<T>(variance / T(D) + T(LAYER_NORM_EPS));
        for (int d = 0; d < D; d++) x.set(d, (x[d] - mean) * rstd);
        store<T>(rstd_N + lane, rstd);
    }
}

// Results of the train view at LN, kept for the backward pass.
template <class T>
struct LossGradient {
    T *unit, *error, *g;  // each [D, N]: standardised input; LN(z) - (v - k); gradient of the loss at LN's input
    T* rstd;              // [N]
};

// error = LN(z) - target and g = d 1/2 ||error||^2 / dz, for z in `at.unit`, which is overwritten.
template <class T>
void loss_gradient(int D, int N, const T* scale, const T* shift, const T* target_DN, LossGradient<T> at) {
    standardise(D, N, at.unit, at.rstd);
    for (int lane = 0; lane < N; lane += LANES<T>) {
        const Lanes<const T> unit{at.unit + lane, N}, target{target_DN + lane, N};
        const Lanes<T> error{at.error + lane, N}, g{at.g + lane, N};
        for (int d = 0; d < D; d++) {
            const Vector<T> difference = scale[d] * unit[d] + shift[d] - target[d];
            error.set(d, difference);
            g.set(d, scale[d] * difference);
        }
        project<T>(D, g, unit, load<T>(at.rstd + lane));
    }
}

// u is the gradient of g on entry and of z on return. Writes the gradient of the target to `to_target` [D, N]; adds to
// the gradients of scale and shift, kept per lane [D, N].
template <class T>
void loss_gradient_backward(
    int D, int N, const T* scale, LossGradient<T> at, T* u_DN, T* to_target_DN, T* dscale_DN, T* dshift_DN
) {
    for (int lane = 0; lane < N; lane += LANES<T>) {
        const Lanes<const T> unit{at.unit + lane, N}, error{at.error + lane, N}, g{at.g + lane, N};
        const Lanes<T> u{u_DN + lane, N}, to_target{to_target_DN + lane, N};
        const Lanes<T> dscale{dscale_DN + lane, N}, dshift{dshift_DN + lane, N};
        const Vector<T> rstd = load<T>(at.rstd + lane);
        Vector<T> u_mean{}, u_unit{}, u_g{}, upstream_unit{};  // upstream of standardising: scale * error
        for (int d = 0; d < D; d++) {
            u_mean += u[d];
            u_unit += u[d] * unit[d];
            u_g += u[d] * g[d];
            upstream_unit += scale[d] * error[d] * unit[d];
        }
        u_mean /= T(D), u_unit /= T(D), u_g /= T(D), upstream_unit /= T(D);
        for (int d = 0; d < D; d++) {
            // Goes back through upstream = scale * error, and through unit in the projection itself.
            const Vector<T> to_upstream = rstd * (u[d] - u_mean - unit[d] * u_unit), to_error = scale[d] * to_upstream;
            dscale.set(d, dscale[d] + to_upstream * error[d] + to_error * unit[d]);
            dshift.set(d, dshift[d] + to_error);
            to_target.set(d, -to_error);
            u.set(d, scale[d] * to_error - rstd * (u[d] * upstream_unit + scale[d] * error[d] * u_unit));
        }
        project<T>(D, u, unit, rstd);
        // Goes back through the factor rstd, whose derivative is along unit.
        for (int d = 0; d < D; d++) u.set(d, u[d] - rstd * unit[d] * u_g);
    }
}

// dz is the gradient of scale * unit + shift on entry and of LN's input on return; adds to the gradients of scale and
// shift.
template <class T>
void layer_norm_backward(
    int D, int N, const T* scale, const T* unit_DN, const T* rstd_N, T* dz_DN, T* dscale_DN, T* dshift_DN
) {
    for (int lane = 0; lane < N; lane += LANES<T>) {
        const Lanes<const T> unit{unit_DN + lane, N};
        const Lanes<T> dz{dz_DN + lane, N}, dscale{dscale_DN + lane, N}, dshift{dshift_DN + lane, N};
        for (int d = 0; d < D; d++) {
            dscale.set(d, dscale[d] + dz[d] * unit[d]);
            dshift.set(d, dshift[d] + dz[d]);
            dz.set(d, dz[d] * scale[d]);
        }
        project<T>(D, dz, unit, load<T>(rstd_N + lane));
    }
}

}  // namespace ttt

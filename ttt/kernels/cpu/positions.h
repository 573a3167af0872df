// eta and tau at the positions of a mini-batch, and their gradients.
//
// Shapes: D head width, b mini-batch size, N = b rounded up to 16. The inner loop works on matrices [width, N], one
// token per lane; lanes from b on have eta = tau = 0, so sums over tokens end at b or include only zeros after it.
#pragma once

#include "state.h"

namespace ttt {

inline int padded(int b) { return (b + 15) / 16 * 16; }

// Returns the weighted sum over the tokens of x [N].
template <class T>
INLINE T weighted_sum(int N, const T* x, const T* weight) {
    Vector<T> sum{};
    for (int lane = 0; lane < N; lane += LANES<T>) sum += load(x + lane) * load(weight + lane);
    return sum_lanes<T>(sum);
}

// The mask M[i][j] = tau_i eta_j for j <= i is never stored. A matrix of scores has a row for every j and the positions
// i in its lanes, so that a row needs one eta and all of tau.
template <class T>
class Positions {
  public:
    const int D, b, N;
    T* last;                 // [N]: M[b][j] = tau_b eta_j, the size of token j's step in W_last
    T *deta, *dlast, *dtau;  // [N]: gradients; of this mini-batch for eta and last, of all so far for tau

    Positions(const Sizes& sizes, const T* tau_b, Arena<T>& arena)
        : D(sizes.D), b(sizes.b), N(padded(sizes.b)), bias_input(sizes.bias ? 1 : 0) {
        for (T** each : {&last, &deta, &dlast, &dtau, &eta, &tau, &ones}) *each = arena.take(N);
        minus_causal = arena.take(N * N);
        for (int i = 0; i < N; i++) {
            tau[i] = i < b ? tau_b[i] : T(0);
            ones[i] = 1, eta[i] = 0;
            for (int j = 0; j < N; j++) minus_causal[j * N + i] = j <= i ? T(-1) : T(0);
        }
    }

    // Begins the mini-batch at token t.
    void enter(Sequences<const T> eta_T, long t) {
        for (int j = 0; j < b; j++) eta[j] = *eta_T[t + j];
        for (int j = 0; j < N; j++) last[j] = tau[b - 1] * eta[j], deta[j] = 0, dlast[j] = 0;
    }

    // to [b, D] = -last * from [b, D].
    void minus_last_rows(const T* from, long stride, T* to) const {
        for (int j = 0; j < b; j++) {
            for (int d = 0; d < D; d += LANES<T>) store<T>(to + j * D + d, -last[j] * load(from + j * stride + d));
        }
    }

    // scores += 1 and mixed = -M * scores, both [j, i]; the 1 is the product of the biases' inputs, and 0 without
    // biases.
    void mix(T* scores, T* mixed) const {
        for (int j = 0; j < N; j++) {
            for (int i = 0; i < N; i += LANES<T>) {
                const int n = j * N + i;
                const Vector<T> score = load(scores + n) + bias_input;
                store<T>(scores + n, score);
                store<T>(mixed + n, eta[j] * load(tau + i) * load(minus_causal + n) * score);
            }
        }
    }

    // Turns the gradient of mixed into the gradient of scores; adds to the gradients of eta and tau.
    void mix_backward(const T* scores, T* gradient) {
        for (int j = 0; j < N; j++) {
            Vector<T> to_eta{};
            for (int i = 0; i < N; i += LANES<T>) {
                const int n = j * N + i;
                const Vector<T> seen = load(gradient + n) * load(minus_causal + n), tau_i = load(tau + i);
                const Vector<T> to_mask = seen * load(scores + n);
                to_eta += to_mask * tau_i;
                store<T>(dtau + i, load(dtau + i) + to_mask * eta[j]);
                store<T>(gradient + n, seen * tau_i * eta[j]);
            }
            deta[j] += sum_lanes<T>(to_eta);
        }
    }

    // Turns the gradient [width, N] of a layer's step -last * G into the gradient of G; adds to the gradient of last.
    void step_backward(int width, const T* G, T* gradient) {
        for (int lane = 0; lane < N; lane += LANES<T>) {
            Vector<T> to_last = load(dlast + lane);
            const Vector<T> minus_last = -load(last + lane);
            for (int n = lane; n < width * N; n += N) {
                const Vector<T> to_step = load(gradient + n);
                to_last -= load(G + n) * to_step;
                store<T>(gradient + n, minus_last * to_step);
            }
            store<T>(dlast + lane, to_last);
        }
    }

    // Multiplies x [width, N] by -last, per token.
    void minus_last(int width, T* x) const {
        for (int n = 0; n < width * N; n += N) {
            for (int i = 0; i < N; i += LANES<T>) store<T>(x + n + i, -load(last + i) * load(x + n + i));
        }
    }

    // Adds the complete gradient of last to the gradients of its factors tau_b and eta.
    void finish_gradients() {
        for (int j = 0; j < b; j++) {
            deta[j] += tau[b - 1] * dlast[j];
            dtau[b - 1] += eta[j] * dlast[j];
        }
    }

    // bias_last = bias - sum_j last_j G_j for G [width, N].
    void step_bias(int width, const T* G, const T* bias, T* bias_last) const {
        for (int o = 0; o < width; o++) bias_last[o] = bias[o] - bias_input * weighted_sum(N, G + o * N, last);
    }

    // sums += sum_j x_j for x [width, N].
    void add_tokens(int width, const T* x, T* sums) const {
        for (int o = 0; o < width; o++) sums[o] += weighted_sum(N, x + o * N, ones);
    }

    // Adds the gradient of a layer's outputs to the gradient of its biases.
    void add_to_bias(int width, const T* dz, T* dbias) const {
        if (bias_input != 0) add_tokens(width, dz, dbias);
    }

  private:
    const T bias_input;                  // the input of a bias: 1, or 0 without biases
    T *eta, *tau, *ones, *minus_causal;  // [N], [N], [N], [N, N]: -1 for j <= i, otherwise 0
};

}  // namespace ttt

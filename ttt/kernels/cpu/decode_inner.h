// The inner loop of TTT-Linear and TTT-MLP for one token: the step of W, and z with the W after it.
//
// As in `primal.py`, W_i = W - tau_i S_i with W at the start of the mini-batch and S_i the sum of eta_j grad loss_j(W)
// up to this token. Every matrix of the state is read and written once for the step and the product that follows it.
//
// Shapes: D head width, F hidden width of TTT-MLP (0: TTT-Linear), I inputs and O outputs of a layer of the inner model,
// all multiples of 16.
#pragma once

#include "decode.h"

namespace ttt {

constexpr double INNER_EPS = 1e-6;  // of the inner model's LN

// One head: W1, b1, W2, b2 and the sums with their shapes; without biases they are null.
template <class T>
struct HeadState {
    T *W[4], *sum[4];
};

template <class T>
struct HeadToken {
    const T *q, *k, *v, *scale, *shift;  // [D]
    T eta, tau;
    bool begun, ends;  // whether the mini-batch has earlier tokens, and whether this is its last
    T* z;              // [D]
};

// out [O] += sum over i of row(i, o), a vector of row i from column o on.
template <class T, int VECTORS, class Row>
INLINE void sum_of_rows(int I, int O, int& o, T* out, const Row& row) {
    for (; o + VECTORS * LANES<T> <= O; o += VECTORS * LANES<T>) {
        Vector<T> sums[VECTORS];
        UNROLL for (int c = 0; c < VECTORS; c++) sums[c] = load(out + o + c * LANES<T>);
        for (int i = 0; i < I; i++) {
            UNROLL for (int c = 0; c < VECTORS; c++) sums[c] += row(i, o + c * LANES<T>);
        }
        UNROLL for (int c = 0; c < VECTORS; c++) store(out + o + c * LANES<T>, sums[c]);
    }
}

template <class T, class Row>
void add_rows(int I, int O, T* out, const Row& row) {
    int o = 0;
    sum_of_rows<T, 4>(I, O, o, out, row);
    sum_of_rows<T, 1>(I, O, o, out, row);
}

// Both inner models for one head; `work` has space for 2 D + 4 F numbers.
template <class T>
class InnerToken {
  public:
    InnerToken(int D, int F, const HeadState<T>& state, const HeadToken<T>& token, T* work)
        : D(D), F(F), state(state), token(token), g(work), z(g + D), hidden(z + D), slope(hidden + F),
          g_hidden(slope + F), q_hidden(g_hidden + F) {}

    void run() {
        if (F) {
            apply(0, D, F, token.k, hidden);
            gelu(hidden, slope);
            apply(2, F, D, hidden, z);
            loss_gradient();
            multiply_vector<T>(D, state.W[2], g, g_hidden, 0, F);
            for (int f = 0; f < F; f++) g_hidden[f] *= slope[f];
            step(0, D, F, token.k, g_hidden, token.q, q_hidden);
            gelu(q_hidden, slope);
            step(2, F, D, hidden, g, q_hidden, z);
        } else {
            apply(0, D, D, token.k, z);
            loss_gradient();
            step(0, D, D, token.k, g, token.q, z);
        }
        standardise_vector<T>(D, z, T(INNER_EPS), z);
        for (int d = 0; d < D; d++) token.z[d] = token.q[d] + token.scale[d] * z[d] + token.shift[d];
    }

  private:
    const int D, F;
    const HeadState<T>& state;
    const HeadToken<T>& token;
    T *g, *z;                                 // [D]; g is eta times the gradient of the loss for z
    T *hidden, *slope, *g_hidden, *q_hidden;  // [F]

    // out = x W + b for the layer whose weights are this tensor of the state.
    void apply(int tensor, int I, int O, const T* x, T* out) const {
        const T *W = state.W[tensor], *bias = state.W[tensor + 1];
        for (int o = 0; o < O; o++) out[o] = bias ? bias[o] : 0;
        add_rows<T>(I, O, out, [&](int i, int o) { return x[i] * load(W + long(i) * O + o); });
    }

    // S += x g, W_i = W - tau S, out = q W_i + b_i, likewise for the bias; writes S, or W_i at a mini-batch's end.
    void step(int tensor, int I, int O, const T* x, const T* g, const T* q, T* out) const {
        std::fill_n(out, O, T(0));
        const T one = 1;  // the input of a bias
        const auto layer = [&](auto begun, auto ends) {
            if (state.W[tensor + 1]) add_rows<T>(1, O, out, row<begun, ends>(tensor + 1, O, &one, g, &one));
            add_rows<T>(I, O, out, row<begun, ends>(tensor, O, x, g, q));
        };
        const std::true_type yes;
        const std::false_type no;
        if (token.begun) return token.ends ? layer(yes, yes) : layer(yes, no);
        token.ends ? layer(no, yes) : layer(no, no);
    }

    template <bool BEGUN, bool ENDS>
    auto row(int tensor, int O, const T* x, const T* g, const T* q) const {
        T *const W = state.W[tensor], *const sum = state.sum[tensor], tau = token.tau;
        return [=](int i, int o) {
            const long at = long(i) * O + o;
            Vector<T> S = x[i] * load(g + o);
            if (BEGUN) S += load(sum + at);
            const Vector<T> W_i = load(W + at) - tau * S;
            ENDS ? store<T>(W + at, W_i) : store<T>(sum + at, S);
            return q[i] * W_i;
        };
    }

    void gelu(T* x, T* slope) const {
        for (int f = 0; f < F; f += LANES<T>) {
            const Gelu<T> at(load(x + f));
            store<T>(x + f, at.value), store<T>(slope + f, at.first);
        }
    }

    // Turns z = f_res(k) into g, eta times the gradient of 1/2 || k + LN(z) - v ||^2.
    void loss_gradient() {
        const T factor = standardise_vector<T>(D, z, T(INNER_EPS), z);
        for (int d = 0; d < D; d++) {
            const T error = token.scale[d] * z[d] + token.shift[d] - (token.v[d] - token.k[d]);
            g[d] = error * token.scale[d];
        }
        const T mean = sum_of(D, g) / D, along = sum_of_products(D, g, z) / D;
        for (int d = 0; d < D; d++) g[d] = token.eta * factor * (g[d] - mean - z[d] * along);
    }
};

}  // namespace ttt

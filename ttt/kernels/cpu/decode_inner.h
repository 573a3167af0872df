// The inner loop of TTT-Linear and TTT-MLP for one token: z, and the state after it.
//
// As in `primal.py`, W_i = W - tau_i S_i with W at the start of the mini-batch and S_i the sum of eta_j grad loss_j(W) up
// to this token. A gradient of a layer's weights is the outer product of its input x_j and of g_j, so this token's test
// view needs only the pairs (x_j, g_j): q W_i = q W - tau_i sum_j (q . x_j) g_j, the dual form. W is read at every token
// and written at the end of a mini-batch. Earlier tokens of a mini-batch whose pairs are not here are in a `sum`.
//
// Shapes: D head width, F hidden width of TTT-MLP (0: TTT-Linear), I inputs and O outputs of a layer of the inner model,
// all multiples of 16; b mini-batch size.
#pragma once

#include "decode.h"
#include "multiply.h"

namespace ttt {

constexpr double INNER_EPS = 1e-6;  // of the inner model's LN

// One head: W1, b1, W2, b2, the sums with their shapes, and x [b, I] and g [b, O] of both layers. Without biases these
// are null.
template <class T>
struct HeadState {
    T *W[4], *sum[4], *x[2], *g[2];
};

template <class T>
struct HeadToken {
    const T *q, *k, *v, *scale, *shift;  // [D]
    T eta, tau;
    long pairs;    // of earlier tokens of the mini-batch
    bool carried;  // whether the sum has earlier tokens
    bool ends;     // whether this is the last token of a mini-batch
    T* z;          // [D]
};

// out [O] += sum over i of row(i, o), a vector of row i from column o on, for as many columns as VECTORS fit.
template <class T, int VECTORS, class Row>
INLINE void sum_of_rows(long I, int O, int& o, T* out, const Row& row) {
    for (; o + VECTORS * LANES<T> <= O; o += VECTORS * LANES<T>) {
        Vector<T> sums[VECTORS];
        UNROLL for (int c = 0; c < VECTORS; c++) sums[c] = load(out + o + c * LANES<T>);
        for (long i = 0; i < I; i++) {
            UNROLL for (int c = 0; c < VECTORS; c++) sums[c] += row(i, o + c * LANES<T>);
        }
        UNROLL for (int c = 0; c < VECTORS; c++) store(out + o + c * LANES<T>, sums[c]);
    }
}

// out [O] += factor * x [I] W [I, O].
template <class T>
void add_product(long I, int O, T factor, const T* x, const T* W, T* out) {
    const auto row = [=](long i, int o) { return factor * x[i] * load(W + i * O + o); };
    int o = 0;
    sum_of_rows<T, 8>(I, O, o, out, row);
    sum_of_rows<T, 4>(I, O, o, out, row);
    sum_of_rows<T, 1>(I, O, o, out, row);
}

// Adds both x W and y W, and reads W once.
template <class T, int VECTORS>
INLINE void add_both_products(int I, int O, int& o, const T* x, const T* y, const T* W, T* x_out, T* y_out) {
    constexpr int L = LANES<T>;
    for (; o + VECTORS * L <= O; o += VECTORS * L) {
        Vector<T> of_x[VECTORS], of_y[VECTORS];
        UNROLL for (int c = 0; c < VECTORS; c++) of_x[c] = load(x_out + o + c * L), of_y[c] = load(y_out + o + c * L);
        for (int i = 0; i < I; i++) {
            UNROLL for (int c = 0; c < VECTORS; c++) {
                const Vector<T> w = load(W + long(i) * O + o + c * L);
                of_x[c] += x[i] * w, of_y[c] += y[i] * w;
            }
        }
        UNROLL for (int c = 0; c < VECTORS; c++) store(x_out + o + c * L, of_x[c]), store(y_out + o + c * L, of_y[c]);
    }
}

// to [I, O] = base + factor * sum over the pairs of their outer products; base is `to` or null for 0.
template <class T>
void add_pairs(int I, int O, long pairs, T factor, const T* x, const T* g, T* scaled, T* to, const T* base) {
    for (long n = 0; n < pairs * I; n++) scaled[n] = factor * x[n];
    multiply<T>(I, O, int(pairs), columns<T>(scaled, I), g, O, to, O, {base, nullptr});
}

// Both inner models for one head.
template <class T>
class InnerToken {
  public:
    // The numbers of `work`.
    static long space(long D, long F, long b) { return D + 3 * F + b * std::max<long>(D, F) + b; }

    InnerToken(int D, int F, const HeadState<T>& state, const HeadToken<T>& token, long b, T* work)
        : D(D), F(F), state(state), token(token), z(work), hidden(z + D), slope(hidden + F), q_hidden(slope + F),
          scores(q_hidden + F), scaled(scores + b) {}

    void run() {
        std::copy_n(token.k, D, state.x[0] + token.pairs * D);
        F ? run_mlp() : run_linear();
        standardise_vector<T>(D, token.z, T(INNER_EPS), token.z);
        for (int d = 0; d < D; d++) token.z[d] = token.q[d] + token.scale[d] * token.z[d] + token.shift[d];
        if (token.ends) update(token.pairs + 1);
    }

    // Moves the pairs to the sum.
    void settle() const {
        each_layer([&](int layer, int I, int O) {
            const T *x = state.x[layer], *g = state.g[layer];
            T *sum = state.sum[2 * layer], *bias_sum = state.sum[2 * layer + 1];
            add_pairs<T>(I, O, token.pairs, T(1), x, g, scaled, sum, token.carried ? sum : nullptr);
            if (!bias_sum) return;
            if (!token.carried) std::fill_n(bias_sum, O, T(0));
            for (long n = 0; n < token.pairs * O; n++) bias_sum[n % O] += g[n];
        });
    }

  private:
    const int D, F;
    const HeadState<T>& state;
    const HeadToken<T>& token;
    T *z, *hidden, *slope, *q_hidden;  // [D], of the train view; [F], of either view
    T *scores, *scaled;                // [b]; [b, D or F]

    template <class Work>
    void each_layer(const Work& work) const {
        work(0, D, F ? F : D);
        if (F) work(1, F, D);
    }

    void run_linear() {
        enter(D, z, token.z);
        loss_gradient(z, state.g[0] + token.pairs * D);
        subtract_steps(0, D, D, token.q, token.z);
    }

    void run_mlp() {
        T *const x = state.x[1] + token.pairs * F, *const g = state.g[1] + token.pairs * D;
        T* const g_hidden = state.g[0] + token.pairs * F;
        enter(F, hidden, q_hidden);
        gelu(hidden, x);
        start(3, D, z);
        add_product<T>(F, D, T(1), x, state.W[2], z);
        loss_gradient(z, g);
        multiply_vector<T>(D, state.W[2], g, g_hidden, 0, F);
        for (int f = 0; f < F; f++) g_hidden[f] *= slope[f];
        subtract_steps(0, D, F, token.q, q_hidden);
        gelu(q_hidden, q_hidden);
        start(3, D, token.z);
        add_product<T>(F, D, T(1), q_hidden, state.W[2], token.z);
        subtract_steps(1, F, D, q_hidden, token.z);
    }

    void start(int bias, int O, T* out) const {
        for (int o = 0; o < O; o++) out[o] = state.W[bias] ? state.W[bias][o] : 0;
    }

    // The first layer for both views.
    void enter(int O, T* of_k, T* of_q) const {
        start(1, O, of_k), start(1, O, of_q);
        int o = 0;
        add_both_products<T, 4>(D, O, o, token.k, token.q, state.W[0], of_k, of_q);
        add_both_products<T, 1>(D, O, o, token.k, token.q, state.W[0], of_k, of_q);
    }

    // out -= tau (q, 1) S_i, with the pairs up to this token's.
    void subtract_steps(int layer, int I, int O, const T* q, T* out) const {
        const long pairs = token.pairs + 1;
        const T *sum = state.sum[2 * layer], *bias_sum = state.sum[2 * layer + 1];
        multiply_vector<T>(I, state.x[layer], q, scores, 0, pairs);
        if (state.W[2 * layer + 1]) {
            for (long j = 0; j < pairs; j++) scores[j] += 1;  // the product of the biases' inputs
        }
        add_product<T>(pairs, O, -token.tau, scores, state.g[layer], out);
        if (!token.carried) return;
        add_product<T>(I, O, -token.tau, q, sum, out);
        for (int o = 0; bias_sum && o < O; o++) out[o] -= token.tau * bias_sum[o];
    }

    // W -= tau S_b at the end of a mini-batch.
    void update(long pairs) const {
        each_layer([&](int layer, int I, int O) {
            const T *sum = state.sum[2 * layer], *bias_sum = state.sum[2 * layer + 1], *g = state.g[layer];
            T *W = state.W[2 * layer], *bias = state.W[2 * layer + 1];
            add_pairs<T>(I, O, pairs, -token.tau, state.x[layer], g, scaled, W, W);
            for (long n = 0; bias && n < pairs * O; n++) bias[n % O] -= token.tau * g[n];
            if (!token.carried) return;
            for (long n = 0; n < long(I) * O; n++) W[n] -= token.tau * sum[n];
            for (int o = 0; bias && o < O; o++) bias[o] -= token.tau * bias_sum[o];
        });
    }

    void gelu(const T* x, T* to) const {
        for (int f = 0; f < F; f += LANES<T>) {
            const Gelu<T> at(load(x + f));
            store<T>(to + f, at.value), store<T>(slope + f, at.first);
        }
    }

    // Writes eta times the gradient of 1/2 || k + LN(z) - v ||^2 for z; standardises z.
    void loss_gradient(T* z, T* g) const {
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

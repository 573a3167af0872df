// One mini-batch of TTT-Linear, f_res(u) = u W1 + b1, and of TTT-MLP, f_res(u) = gelu(u W1 + b1) W2 + b2.
//
// Shapes: D head width, F hidden width, b mini-batch size, N = b rounded up to 16. Matrices [D, N] and [F, N] have one
// token per lane, "rows" [b, D] one token per row. W is the state at the start of the mini-batch.
#pragma once

#include "dual_layer.h"
#include "gelu.h"
#include "layer_norm.h"
#include "rotation.h"

namespace ttt {

// Tokens of q or k in both layouts.
template <class T>
struct View {
    T* lanes;         // [D, N]
    T* turned;        // [b, D]: space for rotated tokens
    const T* rows;    // [b, D], as in the tensor, or `turned`
    long row_stride;

    View() = default;
    View(const Sizes& sizes, Arena<T>& arena)
        : lanes(arena.take(long(sizes.D) * padded(sizes.b))), turned(arena.take(long(sizes.D) * sizes.b)) {}

    // Loads the mini-batch at token t, rotates it, and prefetches the one at t + step.
    void enter(
        Sequences<const T> tokens, long t, long step, const Positions<T>& positions, const Rotation<T>& rotation
    ) {
        rows = tokens[t], row_stride = tokens.token;
        prefetch(tokens[t + step], row_stride, positions.b, positions.D);
        if (rotation.is_given()) {
            rotation.turn(rows, row_stride, turned);
            rows = turned, row_stride = positions.D;
        }
        transpose(rows, row_stride, positions.b, positions.N, positions.D, lanes, positions.N);
    }
};

// Scale and shift of LN, and their gradients per lane [D, N].
template <class T>
struct Norm {
    const T *scale, *shift;
    T *dscale, *dshift;
};

// Gradients of a mini-batch's inputs, each [D, N]. The target of LN is v - k.
template <class T>
struct InputGradients {
    T *q, *k, *target;
};

template <class T>
class Linear {
  public:
    // Results of `train` that the other steps of the mini-batch use.
    struct Record {
        View<T> k;
        LossGradient<T> loss;  // loss.g is G_1

        Record(const Sizes& sizes, Arena<T>& arena) {
            const int N = padded(sizes.b);
            k = View<T>(sizes, arena);
            for (T** each : {&loss.unit, &loss.error, &loss.g}) *each = arena.take(long(sizes.D) * N);
            loss.rstd = arena.take(N);
        }
    };

    Linear(const Sizes& sizes, Positions<T>& positions, Arena<T>& arena)
        : positions(positions), D(sizes.D), b(sizes.b), N(positions.N), layer_1(positions, arena) {
        step_rows = arena.take(long(b) * D);
        dz_1 = arena.take(long(D) * N);
    }

    // Computes the gradients of all tokens' losses at W.
    void train(const State<T>& W, const Norm<T>& norm, const T* target, const Record& record) {
        affine(N, W.first(), record.k.lanes, record.loss.unit);
        loss_gradient(D, N, norm.scale, norm.shift, target, record.loss);
    }

    // Computes z_bar [D, N] = f_res(q_i; W_i).
    void test(const State<T>& W, const Record& record, const View<T>& q, T* z_bar) {
        layer_1.z_bar(W.first(), record.k.lanes, record.loss.g, q.lanes, z_bar);
    }

    // Computes W after the mini-batch; W_last may be W.
    void update(const State<T>& W, const Record& record, const State<T>& W_last) {
        positions.minus_last_rows(record.k.rows, record.k.row_stride, step_rows);
        multiply(D, D, b, rows<T>(record.loss.g, N), step_rows, D, W_last.W1, D, {W.W1});
        positions.step_bias(D, record.loss.g, W.b1, W_last.b1);
    }

    // Call it after `test`. dW is the gradient of W_last on entry and of W on return; adds to the gradients in `to`.
    void backward(const State<T>& W, const State<T>& dW, const Norm<T>& norm, const Record& record, const View<T>& q,
                  const T* dz_bar, const InputGradients<T>& to) {
        const View<T>& k = record.k;
        T* dG_1 = dz_1;
        layer_1.backward(W.first(), dW.first(), k.lanes, record.loss.g, q.lanes, dz_bar, dG_1, to.k, to.q);
        loss_gradient_backward(D, N, norm.scale, record.loss, dz_1, to.target, norm.dscale, norm.dshift);
        pull_back<T>(N, W.first(), dz_1, to.k, to.k);
        const Product<T> by_q{rows(dz_bar, N), q.rows, q.row_stride}, by_k{rows<T>(dz_1, N), k.rows, k.row_stride};
        sum_products<T>(D, D, b, {by_q, by_k}, dW.W1, D, {dW.W1});
        positions.add_to_bias(D, dz_bar, dW.b1);
        positions.add_to_bias(D, dz_1, dW.b1);
    }

  private:
    Positions<T>& positions;
    const int D, b, N;
    DualLayer<T> layer_1;
    T *step_rows, *dz_1;  // [b, D], [D, N]
};

template <class T>
class MLP {
  public:
    struct Record {
        View<T> k;
        LossGradient<T> loss;         // loss.g is G_2
        T *x_2, *slope, *G_1, *bend;  // [F, N]: gelu(z_1), gelu'(z_1), G_1 = (W2 G_2) * slope, (W2 G_2) * gelu''(z_1)

        Record(const Sizes& sizes, Arena<T>& arena) {
            const int N = padded(sizes.b);
            k = View<T>(sizes, arena);
            for (T** each : {&loss.unit, &loss.error, &loss.g}) *each = arena.take(long(sizes.D) * N);
            for (T** each : {&x_2, &slope, &G_1, &bend}) *each = arena.take(long(sizes.F) * N);
            loss.rstd = arena.take(N);
        }
    };

    MLP(const Sizes& sizes, Positions<T>& positions, Arena<T>& arena)
        : positions(positions), D(sizes.D), F(sizes.F), b(sizes.b), N(positions.N), layer_1(positions, arena),
          layer_2(positions, arena) {
        for (T** each : {&step_rows, &G_2_rows, &dz_2_rows, &dz_2_bar_rows}) *each = arena.take(long(b) * D);
        for (T** each : {&x_2_bar, &slope_bar, &dz_1_bar, &dx_2, &dG_1}) *each = arena.take(long(F) * N);
        dz_2 = arena.take(long(D) * N);
    }

    void train(const State<T>& W, const Norm<T>& norm, const T* target, const Record& record) {
        affine(N, W.first(), record.k.lanes, record.x_2);
        for (int n = 0; n < F * N; n += LANES<T>) {
            const Gelu<T> gelu(load(record.x_2 + n));
            store<T>(record.x_2 + n, gelu.value);
            store<T>(record.slope + n, gelu.first);
            store<T>(record.bend + n, gelu.second);
        }
        affine<T>(N, W.second(), record.x_2, record.loss.unit);
        loss_gradient(D, N, norm.scale, norm.shift, target, record.loss);
        pull_back<T>(N, W.second(), record.loss.g, record.G_1, nullptr);
        for (int n = 0; n < F * N; n += LANES<T>) {
            const Vector<T> pulled = load(record.G_1 + n);
            store<T>(record.G_1 + n, pulled * load(record.slope + n));
            store<T>(record.bend + n, pulled * load(record.bend + n));
        }
    }

    void test(const State<T>& W, const Record& record, const View<T>& q, T* z_bar) {
        layer_1.z_bar(W.first(), record.k.lanes, record.G_1, q.lanes, x_2_bar);
        for (int n = 0; n < F * N; n += LANES<T>) {
            const Gelu<T> gelu(load(x_2_bar + n));
            store<T>(x_2_bar + n, gelu.value);
            store<T>(slope_bar + n, gelu.first);
        }
        layer_2.z_bar(W.second(), record.x_2, record.loss.g, x_2_bar, z_bar);
    }

    void update(const State<T>& W, const Record& record, const State<T>& W_last) {
        positions.minus_last_rows(record.k.rows, record.k.row_stride, step_rows);
        multiply(F, D, b, rows<T>(record.G_1, N), step_rows, D, W_last.W1, D, {W.W1});
        positions.step_bias(F, record.G_1, W.b1, W_last.b1);
        transpose<T>(record.loss.g, N, D, D, b, G_2_rows, D);
        positions.minus_last_rows(G_2_rows, D, step_rows);
        multiply(F, D, b, rows<T>(record.x_2, N), step_rows, D, W_last.W2, D, {W.W2});
        positions.step_bias(D, record.loss.g, W.b2, W_last.b2);
    }

    void backward(const State<T>& W, const State<T>& dW, const Norm<T>& norm, const Record& record, const View<T>& q,
                  const T* dz_2_bar, const InputGradients<T>& to) {
        const View<T>& k = record.k;
        T *dx_2_bar = dz_1_bar, *dG_2 = dz_2;
        std::memset(dx_2_bar, 0, long(F) * N * sizeof(T));
        layer_2.backward(W.second(), dW.second(), record.x_2, record.loss.g, x_2_bar, dz_2_bar, dG_2, dx_2, dx_2_bar);
        for (int n = 0; n < F * N; n += LANES<T>) store<T>(dz_1_bar + n, load(dx_2_bar + n) * load(slope_bar + n));
        layer_1.backward(W.first(), dW.first(), k.lanes, record.G_1, q.lanes, dz_1_bar, dG_1, to.k, to.q);

        // Goes back through G_1 = (W2 G_2) * gelu'(z_1) and G_2 to z_2 and z_1 of the train view.
        T *dpulled = dG_1, *dz_1 = dx_2;
        for (int n = 0; n < F * N; n += LANES<T>) {
            const Vector<T> to_G = load(dG_1 + n);
            store<T>(record.bend + n, to_G * load(record.bend + n));
            store<T>(dpulled + n, to_G * load(record.slope + n));
        }
        multiply(D, N, F, columns<T>(W.W2, D), dpulled, N, dG_2, N, {dG_2});
        loss_gradient_backward(D, N, norm.scale, record.loss, dz_2, to.target, norm.dscale, norm.dshift);
        pull_back<T>(N, W.second(), dz_2, dx_2, dx_2);
        for (int n = 0; n < F * N; n += LANES<T>) {
            store<T>(dz_1 + n, load(dx_2 + n) * load(record.slope + n) + load(record.bend + n));
        }
        pull_back<T>(N, W.first(), dz_1, to.k, to.k);
        add_to_dW(dW, record, q, dz_2_bar, dpulled, dz_1);
    }

  private:
    Positions<T>& positions;
    const int D, F, b, N;
    DualLayer<T> layer_1, layer_2;
    T *step_rows, *G_2_rows, *dz_2_rows, *dz_2_bar_rows;  // [b, D]
    T *x_2_bar, *slope_bar, *dz_1_bar, *dx_2, *dG_1;       // [F, N]
    T* dz_2;                                               // [D, N]

    // Adds the contribution of this mini-batch's products with W to the gradient of W.
    void add_to_dW(const State<T>& dW, const Record& record, const View<T>& q, const T* dz_2_bar, const T* dpulled,
                   const T* dz_1) {
        const View<T>& k = record.k;
        const Product<T> by_q{rows<T>(dz_1_bar, N), q.rows, q.row_stride}, by_k{rows(dz_1, N), k.rows, k.row_stride};
        sum_products<T>(F, D, b, {by_q, by_k}, dW.W1, D, {dW.W1});
        positions.add_to_bias(F, dz_1_bar, dW.b1);
        positions.add_to_bias(F, dz_1, dW.b1);
        const auto by_rows = [&](const T* left, const T* lanes_DN, T* rows_bD) -> Product<T> {
            transpose(lanes_DN, N, D, D, b, rows_bD, D);
            return {rows(left, N), rows_bD, D};
        };
        const Product<T> by_z_bar = by_rows(x_2_bar, dz_2_bar, dz_2_bar_rows);
        const Product<T> by_z = by_rows(record.x_2, dz_2, dz_2_rows);
        const Product<T> by_G = by_rows(dpulled, record.loss.g, G_2_rows);
        sum_products<T>(F, D, b, {by_z_bar, by_z, by_G}, dW.W2, D, {dW.W2});
        positions.add_to_bias(D, dz_2_bar, dW.b2);
        positions.add_to_bias(D, dz_2, dW.b2);
    }
};

}  // namespace ttt

// One layer of the inner model in the dual form: Z_bar = X_bar W + b - (M * (X_bar X^T + 1)) G, and its derivatives.
//
// Shapes: b mini-batch size, N = b rounded up to 16. X, X_bar [inputs, N] and G, Z_bar [outputs, N] have one token per
// lane: every product here is the transpose of the one derived in ttt/inner/README.md.
#pragma once

#include "positions.h"

namespace ttt {

// z = W^T x + bias.
template <class T>
void affine(int N, const Layer<T>& layer, const T* x, T* z) {
    multiply(layer.outputs, N, layer.inputs, layer.forward, x, N, z, N, {nullptr, layer.bias});
}

// dx = base + W dz; base may be dx.
template <class T>
void pull_back(int N, const Layer<T>& layer, const T* dz, T* dx, const T* base) {
    multiply(layer.inputs, N, layer.outputs, layer.back, dz, N, dx, N, {base});
}

template <class T>
class DualLayer {
  public:
    DualLayer(Positions<T>& positions, Arena<T>& arena) : positions(positions), b(positions.b), N(positions.N) {
        for (T** each : {&scores, &mixed, &turned}) *each = arena.take(N * N);
    }

    void z_bar(const Layer<T>& W, const T* x, const T* G, const T* x_bar, T* z_bar) {
        multiply(N, N, W.inputs, columns(x, N), x_bar, N, scores, N);
        positions.mix(scores, mixed);
        affine(N, W, x_bar, z_bar);
        multiply(W.outputs, N, b, rows(G, N), mixed, N, z_bar, N, {z_bar});
    }

    // Writes the gradients dG and dx, given dz_bar and dW, the gradient of the layer's W_last; adds to dx_bar and to
    // the gradients of eta and tau. Call it after `z_bar` with the same arguments.
    void backward(const Layer<T>& W, const Layer<T>& dW, const T* x, const T* G, const T* x_bar, const T* dz_bar, T* dG,
                  T* dx, T* dx_bar) {
        // The weights' step is the outer product of x and -last * G; the bias's step is -last * G.
        affine(N, dW, x, dG);
        positions.step_backward(W.outputs, G, dG);
        pull_back<T>(N, dW, G, dx, nullptr);
        positions.minus_last(W.inputs, dx);
        // Goes back through the sum of all G, weighted by the scores.
        transpose(mixed, N, N, N, N, turned, N);
        multiply(W.outputs, N, b, rows(dz_bar, N), turned, N, dG, N, {dG});
        T* dscores = mixed;
        multiply(N, N, W.outputs, columns(G, N), dz_bar, N, dscores, N);
        positions.mix_backward(scores, dscores);
        multiply(W.inputs, N, b, rows(x, N), dscores, N, dx_bar, N, {dx_bar});
        transpose(dscores, N, N, N, N, turned, N);
        multiply(W.inputs, N, b, rows(x_bar, N), turned, N, dx, N, {dx});
        pull_back<T>(N, W, dz_bar, dx_bar, dx_bar);
    }

  private:
    Positions<T>& positions;
    const int b, N;
    T *scores, *mixed, *turned;  // [N, N]
};

}  // namespace ttt

// The kernel's layout of W.
//
// Shapes: D head width, F hidden width, O outputs of the first layer (F for TTT-MLP, D for TTT-Linear).
#pragma once

#include "kernel.h"
#include "memory.h"
#include "multiply.h"

namespace ttt {

// One layer's weights as the left factor of products, forward and back, with matrices of one token per lane.
template <class T>
struct Layer {
    int inputs, outputs;
    Left<T> forward, back;  // [outputs, inputs] for z = W^T x, [inputs, outputs] for dx = W dz
    const T* bias;
};

// W, or a gradient of it: W1 transposed [O, D], b1 [O], W2 [F, D], b2 [D], one after the other in `numbers`.
// Both weights have D columns, so that their updates, products with rows of k and G_2, access memory in order.
template <class T>
struct State {
    int D, O, F;
    T *numbers, *W1, *b1, *W2, *b2;

    State(const Sizes& sizes, T* numbers) : D(sizes.D), O(sizes.outputs_1()), F(sizes.F), numbers(numbers) {
        W1 = numbers, b1 = W1 + long(O) * D, W2 = b1 + O, b2 = W2 + long(F) * D;
    }

    Layer<T> first() const { return {D, O, rows<T>(W1, D), columns<T>(W1, D), b1}; }
    Layer<T> second() const { return {F, D, columns<T>(W2, D), rows<T>(W2, D), b2}; }

    // Copies from and to the tensors, for head h of sequence b.
    template <class Tensors>
    void read(const Tensors& from, long b, long h) const {
        const auto tensor = [&](int i) { return from.tensors[i].of(b, h).at; };
        transpose<T>(tensor(0), O, D, D, O, W1, D);
        std::memcpy(b1, tensor(1), O * sizeof(T));
        if (!F) return;
        std::memcpy(W2, tensor(2), long(F) * D * sizeof(T));
        std::memcpy(b2, tensor(3), D * sizeof(T));
    }

    void write(const Parameters<T>& to, long b, long h) const {
        const auto tensor = [&](int i) { return to.tensors[i].of(b, h).at; };
        transpose<T>(W1, D, O, O, D, tensor(0), O);
        std::memcpy(tensor(1), b1, O * sizeof(T));
        if (!F) return;
        std::memcpy(tensor(2), W2, long(F) * D * sizeof(T));
        std::memcpy(tensor(3), b2, D * sizeof(T));
    }
};

}  // namespace ttt

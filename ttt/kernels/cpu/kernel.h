// The inner loop for a range of (sequence, head) pairs, called by the operator.
//
// Shapes: B batch, H heads, T tokens, D head width, b mini-batch size, F hidden width of TTT-MLP (0: TTT-Linear).
#pragma once

namespace ttt {

struct Sizes {
    int D, F, b, H;
    long mini_batches;  // T / b
    long group;         // mini-batches per kept W
    bool bias;          // whether biases are learned; if not, they stay zero

    long groups() const { return (mini_batches + group - 1) / group; }
    int layers() const { return F ? 2 : 1; }
    int outputs_1() const { return F ? F : D; }  // of the first layer
    long state_numbers() const { return long(outputs_1()) * (D + 1) + long(F ? D : 0) * (F + 1); }
};

// A tensor [B, H, T, ...] by its strides; the axes after T are dense.
template <class T>
struct Sequences {
    T* at = nullptr;
    long batch = 0, head = 0, token = 0;

    Sequences of(long b, long h) const { return {at + b * batch + h * head, batch, head, token}; }
    T* operator[](long t) const { return at + t * token; }
};

// W1, b1, W2, b2, each [B, H, ...] and dense within a head.
template <class T>
struct Parameters {
    Sequences<T> tensors[4];
};

template <class T>
struct Inputs {
    Sizes sizes;
    Parameters<const T> W;
    Sequences<const T> q, k, v, eta;
    const T *tau, *scale, *shift;  // [b], [H, D], [H, D]
    const T* rotation;             // [b, D]: RoPE's cosines and sines in turn for every place; null for no RoPE
};

template <class T>
struct Forward {
    Inputs<T> in;
    Sequences<T> z;
    Parameters<T> W_last;
    T* kept;  // [B, H, groups, state_numbers], or null to keep nothing
};

template <class T>
struct Backward {
    Inputs<T> in;
    const T* kept;
    Sequences<const T> dz;
    Parameters<const T> dW_last;
    Sequences<T> dq, dk, dv, deta;
    Parameters<T> dW;
    T *dtau, *dscale, *dshift;  // per pair: [B, H, b], [B, H, D], [B, H, D]
};

// Computes the pairs begin to end of B * H, numbered b * H + h.
template <class T>
void forward_pairs(const Forward<T>& call, long begin, long end);
template <class T>
void backward_pairs(const Backward<T>& call, long begin, long end);

}  // namespace ttt

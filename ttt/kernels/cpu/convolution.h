// Causal depthwise convolution, forward and backward: y_t = bias + sum over k of w_k x_{t-K+1+k}.
//
// Shapes: B batch, T tokens, C channels, K taps. The loops over channels are left to the compiler's vectors: a token's
// taps are K products of rows that the cache still holds. A task is one group of channels of one sequence. Groups do
// not depend on the number of threads, nor do sums.
#pragma once

#include <algorithm>

namespace ttt {

constexpr long CONV_GROUP = 128;  // channels

// A tensor [B, T, C] whose channels are adjacent.
template <class T>
struct Rows {
    T* at = nullptr;
    long batch = 0, token = 0;

    T* of(long b, long t, long c) const { return at + b * batch + t * token + c; }
};

struct ConvSizes {
    long B, T, C, K;

    long groups() const { return (C + CONV_GROUP - 1) / CONV_GROUP; }
};

template <class T>
struct ConvInputs {
    ConvSizes sizes;
    Rows<const T> x, before;  // [B, T, C] and the K - 1 tokens before them
    const T *w, *bias;        // [K, C]; [C]
};

// One group of channels of one sequence. Tokens before the first have negative numbers.
template <class T>
class ConvTask {
  public:
    ConvTask(const ConvInputs<T>& in, long task)
        : in(in), sizes(in.sizes), b(task / sizes.groups()), first(task % sizes.groups() * CONV_GROUP),
          channels(std::min(CONV_GROUP, sizes.C - first)) {}

    void forward(Rows<T> y) const {
        for (long t = 0; t < sizes.T; t++) {
            T* __restrict to = y.of(b, t, first);
            for (long c = 0; c < channels; c++) to[c] = in.bias[first + c];
            for (long k = 0; k < sizes.K; k++) add_product(to, tap(k), input(t - sizes.K + 1 + k));
        }
    }

    // Writes dx, dbefore and this sequence's dw [K, C] and dbias [C].
    void backward(Rows<const T> dy, Rows<T> dx, Rows<T> dbefore, T* dw, T* dbias) const {
        for (long t = 1 - sizes.K; t < sizes.T; t++) {
            T* __restrict to = t < 0 ? dbefore.of(b, t + sizes.K - 1, first) : dx.of(b, t, first);
            std::fill_n(to, channels, T(0));
            for (long k = 0; k < sizes.K; k++) {
                const long reached = t + sizes.K - 1 - k;
                if (0 <= reached && reached < sizes.T) add_product(to, tap(k), dy.of(b, reached, first));
            }
        }
        for (long k = 0; k < sizes.K; k++) std::fill_n(dw + k * sizes.C + first, channels, T(0));
        std::fill_n(dbias + first, channels, T(0));
        for (long t = 0; t < sizes.T; t++) {
            const T* from = dy.of(b, t, first);
            for (long k = 0; k < sizes.K; k++) {
                add_product(dw + k * sizes.C + first, from, input(t - sizes.K + 1 + k));
            }
            for (long c = 0; c < channels; c++) dbias[first + c] += from[c];
        }
    }

  private:
    const T* tap(long k) const { return in.w + k * sizes.C + first; }

    const T* input(long t) const {
        return t < 0 ? in.before.of(b, t + sizes.K - 1, first) : in.x.of(b, t, first);
    }

    void add_product(T* __restrict to, const T* __restrict a, const T* __restrict x) const {
        for (long c = 0; c < channels; c++) to[c] += a[c] * x[c];
    }

    const ConvInputs<T>& in;
    const ConvSizes sizes;
    const long b, first, channels;
};

}  // namespace ttt

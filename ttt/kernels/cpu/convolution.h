// Causal depthwise convolutions of one input, forward and backward: y_t = bias + sum over k of w_k x_{t-K+1+k}.
//
// A task is a part of one sequence's tokens, so that memory is read and written in order, once for all filters: the K
// rows that a token needs are in the first cache. Parts do not depend on the number of threads, nor do sums.
// Shapes: F filters, B batch, T tokens, C channels, K taps.
#pragma once

#include <vector>

#include "row.h"

namespace ttt {

constexpr long CONV_PART = 128;  // tokens

// A tensor [B, T, C] whose channels are adjacent.
template <class T>
struct Rows {
    T* at = nullptr;
    long batch = 0, token = 0;

    T* of(long b, long t) const { return at + b * batch + t * token; }
};

struct ConvSizes {
    long B, T, C, K;

    long parts() const { return std::max(1L, (T + CONV_PART - 1) / CONV_PART); }
};

template <class T>
struct Filter {
    const T *w, *bias;      // [K, C]; [C]
    Rows<const T> before;   // the K - 1 tokens before the first
};

// What the backward pass reads and writes for one filter.
template <class T>
struct FilterGradients {
    Rows<const T> dy;
    Rows<T> dbefore;
    T *dw, *dbias;  // [K, C]; [C]: sums, to which it adds
};

// y = bias + sum over k of w_k rows_k. TAPS is K, or 0 where the compiler need not know it.
template <class T, int TAPS>
void filter_row(const Filter<T>& filter, const T* const* rows, long taps, Row<T> y) {
    const long K = TAPS ? TAPS : taps, C = y.C;
    along_row<T>(C, [&](long c) INLINE_LAMBDA {
        Vector<T> sum = Read<T>{filter.bias, C}[c];
        UNROLL for (long k = 0; k < K; k++) sum += Read<T>{filter.w + k * C, C}[c] * Read<T>{rows[k], C}[c];
        y.set(c, sum);
    });
}

// dx, to which it adds or not, is the sum over k of w_k dy_k, with dy_k the gradient of the output that x reaches by
// tap k. Adds to dw.
template <class T, int TAPS>
void filter_row_backward(
    const Filter<T>& filter, const T* const* dy, long taps, Read<T> x, bool adds, Row<T> dx, T* dw
) {
    const long K = TAPS ? TAPS : taps, C = x.C;
    along_row<T>(C, [&](long c) INLINE_LAMBDA {
        const Vector<T> input = x[c];
        Vector<T> sum = adds ? dx[c] : Vector<T>{};
        UNROLL for (long k = 0; k < K; k++) {
            const Vector<T> upstream = Read<T>{dy[k], C}[c];
            sum += Read<T>{filter.w + k * C, C}[c] * upstream;
            Row<T>{dw + k * C, C}.add(c, input * upstream);
        }
        dx.set(c, sum);
    });
}

// Part of the tokens of one sequence. Tokens before the first have negative numbers.
template <class T>
class ConvTask {
  public:
    ConvTask(const ConvSizes& sizes, Rows<const T> x, const std::vector<Filter<T>>& filters, long task)
        : sizes(sizes), x(x), filters(filters), b(task / sizes.parts()), begin(task % sizes.parts() * CONV_PART),
          end(std::min(sizes.T, begin + CONV_PART)), rows(sizes.K) {}

    void forward(const std::vector<Rows<T>>& y) {
        const auto filter_row = sizes.K == 4 ? ttt::filter_row<T, 4> : ttt::filter_row<T, 0>;
        for (long t = begin; t < end; t++) {
            for (size_t f = 0; f < filters.size(); f++) {
                for (long k = 0; k < sizes.K; k++) rows[k] = input(filters[f], t - sizes.K + 1 + k);
                filter_row(filters[f], rows.data(), sizes.K, {y[f].of(b, t), sizes.C});
            }
        }
    }

    void backward(const std::vector<FilterGradients<T>>& gradients, Rows<T> dx) {
        const auto row_backward = sizes.K == 4 ? filter_row_backward<T, 4> : filter_row_backward<T, 0>;
        const std::vector<T> zeros(sizes.C);
        for (long t = begin ? begin : 1 - sizes.K; t < end; t++) {
            for (size_t f = 0; f < filters.size(); f++) {
                const FilterGradients<T>& to = gradients[f];
                for (long k = 0; k < sizes.K; k++) {
                    const long reached = t + sizes.K - 1 - k;
                    rows[k] = 0 <= reached && reached < sizes.T ? to.dy.of(b, reached) : zeros.data();
                }
                const Read<T> from{input(filters[f], t), sizes.C};
                const Row<T> dfrom{t < 0 ? to.dbefore.of(b, t + sizes.K - 1) : dx.of(b, t), sizes.C};
                row_backward(filters[f], rows.data(), sizes.K, from, f > 0 && t >= 0, dfrom, to.dw);
                if (t >= 0) add<T>({to.dbias, sizes.C}, {to.dy.of(b, t), sizes.C}, {to.dbias, sizes.C});
            }
        }
    }

  private:
    const T* input(const Filter<T>& filter, long t) const {
        return t < 0 ? filter.before.of(b, t + sizes.K - 1) : x.of(b, t);
    }

    const ConvSizes sizes;
    const Rows<const T> x;
    const std::vector<Filter<T>>& filters;
    const long b, begin, end;
    std::vector<const T*> rows;  // those of one token
};

}  // namespace ttt

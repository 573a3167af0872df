// The steps of decoding one token of one sequence besides the inner loop: products of a matrix and a vector, norms,
// activations, the convolution and Mamba's recurrence, with their states overwritten.
//
// Shapes: C channels, K inputs or taps, N outputs or state size, H heads, D head width; L lanes of a vector.
#pragma once

#include <algorithm>

#include "gelu.h"
#include "softplus.h"

namespace ttt {

// The first `count` numbers from x, and zeros in the lanes after them.
template <class T>
INLINE Vector<T> read(const T* x, long count) {
    if (count >= LANES<T>) return load(x);
    T lanes[LANES<T>] = {};
    std::memcpy(lanes, x, count * sizeof(T));
    return load(lanes);
}

template <class T>
INLINE void write(T* y, long count, Vector<T> x) {
    std::memcpy(y, &x, std::min<long>(count, LANES<T>) * sizeof(T));
}

// Calls step(i, numbers left) for every vector of `length` numbers.
template <class T, class Step>
INLINE void each_vector(long length, const Step& step) {
    for (long i = 0; i < length; i += LANES<T>) step(i, length - i);
}

template <class T>
INLINE Vector<T> logistic(Vector<T> x) {
    const Vector<T> decay = exp_of_negative(x < 0 ? x : -x), large = 1 / (1 + decay);
    return x < 0 ? decay * large : large;
}

template <class T>
constexpr int ROWS_AT_ONCE = std::min(8, LANES<T>);

// y[n] = W[n] . x for rows `begin` to `end` of W [N, K].
template <class T>
void multiply_vector(long K, const T* W, const T* x, T* y, long begin, long end) {
    constexpr int ROWS = ROWS_AT_ONCE<T>;
    long n = begin;
    for (; n + ROWS <= end; n += ROWS) {
        const T* const row = W + n * K;
        Vector<T> sums[ROWS] = {};
        long k = 0;
        for (; k + LANES<T> <= K; k += LANES<T>) {
            const Vector<T> part = load(x + k);
            UNROLL for (int r = 0; r < ROWS; r++) sums[r] += part * load(row + r * K + k);
        }
        if (k < K) {
            const Vector<T> part = read(x + k, K - k);
            for (int r = 0; r < ROWS; r++) sums[r] += part * read(row + r * K + k, K - k);
        }
        write(y + n, ROWS, sums_of_lanes<T, ROWS>(sums));
    }
    for (; n < end; n++) {
        Vector<T> sum{};
        each_vector<T>(K, [&](long k, long left) { sum += read(x + k, left) * read(W + n * K + k, left); });
        y[n] = sum_lanes<T>(sum);
    }
}

template <class T>
T sum_of(long C, const T* x) {
    Vector<T> sum{};
    each_vector<T>(C, [&](long c, long left) { sum += read(x + c, left); });
    return sum_lanes<T>(sum);
}

template <class T>
T sum_of_products(long C, const T* x, const T* y) {
    Vector<T> sum{};
    each_vector<T>(C, [&](long c, long left) { sum += read(x + c, left) * read(y + c, left); });
    return sum_lanes<T>(sum);
}

// y = x weight / sqrt(mean of x^2 + eps).
template <class T>
void rms_norm_vector(long C, const T* x, const T* weight, T eps, T* y) {
    const T factor = 1 / std::sqrt(sum_of_products(C, x, x) / C + eps);
    for (long c = 0; c < C; c++) y[c] = x[c] * factor * weight[c];
}

// Writes x with mean 0 and variance 1 to `unit`, which may be x; returns the reciprocal standard deviation of x.
template <class T>
T standardise_vector(long C, const T* x, T eps, T* unit) {
    const T mean = sum_of(C, x) / C;
    for (long c = 0; c < C; c++) unit[c] = x[c] - mean;
    const T factor = 1 / std::sqrt(sum_of_products(C, unit, unit) / C + eps);
    for (long c = 0; c < C; c++) unit[c] *= factor;
    return factor;
}

// y = sum over k of the taps [C, K], the last of which is for x. Then the inputs [K - 1, C] move by one token.
template <class T>
void convolve_token(long C, long K, const T* x, const T* taps, const T* bias, T* inputs, T* y) {
    for (long c = 0; c < C; c++) {
        T sum = (bias ? bias[c] : 0) + taps[c * K + K - 1] * x[c];
        for (long k = 0; k < K - 1; k++) sum += taps[c * K + k] * inputs[k * C + c];
        y[c] = sum;
    }
    if (K == 1) return;
    std::memmove(inputs, inputs + C, (K - 2) * C * sizeof(T));
    std::memcpy(inputs + (K - 2) * C, x, C * sizeof(T));
}

// Rotates the pairs (2 j, 2 j + 1) of every head by the complex numbers turn [D / 2].
template <class T>
void rotate_token(long H, long D, const T* turn, T* x) {
    for (long h = 0; h < H; h++, x += D) {
        for (long d = 0; d < D; d += 2) {
            const T real = x[d] * turn[d] - x[d + 1] * turn[d + 1];
            x[d + 1] = x[d] * turn[d + 1] + x[d + 1] * turn[d];
            x[d] = real;
        }
    }
}

// One token of Mamba: h = exp(delta A) h + delta u B and y = (C h + D u) silu(gate) with delta = softplus(dt + bias).
template <class T>
struct ScanToken {
    long E, N;  // channels, state size
    const T *u, *dt, *bias, *A, *B, *C, *D, *gate;
    T *h, *delta, *y;

    void run(long begin, long end) const {
        each_vector<T>(end - begin, [&](long i, long left) {
            const long e = begin + i;
            write(delta + e, left, Softplus<T>(read(dt + e, left) + read(bias + e, left)).value());
        });
        for (long e = begin; e < end; e++) {
            Vector<T> sum{};
            each_vector<T>(N, [&](long n, long left) {
                const Vector<T> decay = exp_of_negative(delta[e] * read(A + e * N + n, left));
                const Vector<T> x = decay * read(h + e * N + n, left) + delta[e] * u[e] * read(B + n, left);
                write(h + e * N + n, left, x);
                sum += x * read(C + n, left);
            });
            y[e] = sum_lanes<T>(sum) + D[e] * u[e];
        }
        each_vector<T>(end - begin, [&](long i, long left) {
            const Vector<T> z = read(gate + begin + i, left);
            write(y + begin + i, left, read(y + begin + i, left) * z * logistic<T>(z));
        });
    }
};

}  // namespace ttt

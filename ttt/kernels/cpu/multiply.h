// Products of small matrices that fit in the first- and second-level cache.
//
// out [M, N] = base + A [M, K] B [K, N], or a sum of several such products. A tile of out stays in registers while k
// runs: for every k, a few vectors of B are multiplied by single numbers of A. Since A is read number by number, it can
// have either orientation, and no weight matrix is ever transposed. M and N are multiples of 16; K is any number.
#pragma once

#include <initializer_list>

#include "simd.h"

namespace ttt {

// The left factor A. `as_stored`: A[i][k] = at[i * stride + k]; otherwise A is the transpose of what is stored.
template <class T>
struct Left {
    const T* at;
    int stride;
    bool as_stored;
};

template <class T>
Left<T> rows(const T* at, int stride) {
    return {at, stride, true};
}

template <class T>
Left<T> columns(const T* at, int stride) {
    return {at, stride, false};
}

// The initial value of out: zero, a matrix with out's stride (out itself to accumulate), or one number per row.
template <class T>
struct Base {
    const T* matrix = nullptr;
    const T* row_numbers = nullptr;
};

constexpr int TRANSPOSED = -1, ANY_STRIDE = 0;

// One summand of a sum of products. All have the same M, N, K, and a left factor of the same shape in memory.
template <class T>
struct Product {
    Left<T> A;
    const T* B;
    long B_stride;
};

// Computes ROWS x VECTORS vectors of out, at row m and column n. STRIDE: distance of A's rows in memory if known at
// compile time, which makes it part of the instructions; otherwise sixteen row pointers would not fit the registers.
template <class T, int ROWS, int VECTORS, int STRIDE>
INLINE void tile(int m, int n, int K, const Product<T>* products, int count, T* out, long out_stride, Base<T> base) {
    constexpr int L = LANES<T>;
    Vector<T> sum[ROWS][VECTORS];
    UNROLL for (int r = 0; r < ROWS; r++) {
        UNROLL for (int c = 0; c < VECTORS; c++) {
            sum[r][c] = base.matrix        ? load(base.matrix + (m + r) * out_stride + n + c * L)
                        : base.row_numbers ? all(base.row_numbers[m + r])
                                           : Vector<T>{};
        }
    }
    for (const Product<T>* product = products; product < products + count; product++) {
        const long stride = product->A.stride;
        const long row_step = STRIDE == TRANSPOSED ? 1 : STRIDE == ANY_STRIDE ? stride : STRIDE;
        const T *A = product->A.at + m * row_step, *B = product->B + n;
        UNROLL_BY_4 for (int k = 0; k < K; k++) {
            Vector<T> b[VECTORS];
            UNROLL for (int c = 0; c < VECTORS; c++) b[c] = load(B + c * L);
            UNROLL for (int r = 0; r < ROWS; r++) {
                UNROLL for (int c = 0; c < VECTORS; c++) sum[r][c] += A[r * row_step] * b[c];
            }
            A += STRIDE == TRANSPOSED ? stride : 1;
            B += product->B_stride;
        }
    }
    UNROLL for (int r = 0; r < ROWS; r++) {
        UNROLL for (int c = 0; c < VECTORS; c++) store(out + (m + r) * out_stride + n + c * L, sum[r][c]);
    }
}

// Computes all tiles of out from column n on, with VECTORS vectors while they fit and with fewer for the rest. Half of
// the machine's registers hold sums, or twelve of sixteen: with fewer, loads would take as long as the sums.
template <class T, int VECTORS, int STRIDE>
__attribute__((noinline)) void tiles(
    int M, int n, int N, int K, const Product<T>* products, int count, T* out, long out_stride, Base<T> base
) {
    constexpr int ROWS = VECTOR_REGISTERS == 16 && VECTORS == 2 ? 6 : VECTOR_REGISTERS / 2 / VECTORS;
    constexpr int WIDTH = VECTORS * LANES<T>;
    const int rest = ROWS == 6 ? M % 12 : 0;  // 0, 4 or 8 rows, because M is a multiple of 16
    for (; n + WIDTH <= N; n += WIDTH) {
        int m = 0;
        for (; m < M - rest; m += ROWS) {
            tile<T, ROWS, VECTORS, STRIDE>(m, n, K, products, count, out, out_stride, base);
        }
        if constexpr (ROWS == 6) {
            for (; m < M; m += 4) tile<T, 4, VECTORS, STRIDE>(m, n, K, products, count, out, out_stride, base);
        }
    }
    if constexpr (VECTORS > 1) {
        if (n < N) tiles<T, VECTORS / 2, STRIDE>(M, n, N, K, products, count, out, out_stride, base);
    }
}

template <class T>
void sum_products(
    int M, int N, int K, std::initializer_list<Product<T>> products, T* out, long out_stride, Base<T> base
) {
    const Left<T>& A = products.begin()->A;
    const auto run = [&](auto STRIDE) {
        tiles<T, 2, STRIDE>(M, 0, N, K, products.begin(), int(products.size()), out, out_stride, base);
    };
    if (!A.as_stored) return run(std::integral_constant<int, TRANSPOSED>{});
    if constexpr (sizeof(T) == 4) {  // float64 is for tests, and needs no specialised versions
        switch (A.stride) {
            case 16: return run(std::integral_constant<int, 16>{});
            case 32: return run(std::integral_constant<int, 32>{});
            case 64: return run(std::integral_constant<int, 64>{});
            case 96: return run(std::integral_constant<int, 96>{});
            case 128: return run(std::integral_constant<int, 128>{});
        }
    }
    run(std::integral_constant<int, ANY_STRIDE>{});
}

template <class T>
void multiply(int M, int N, int K, Left<T> A, const T* B, long B_stride, T* out, long out_stride, Base<T> base = {}) {
    sum_products<T>(M, N, K, {{A, B, B_stride}}, out, out_stride, base);
}

}  // namespace ttt

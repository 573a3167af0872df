// Vectors of the machine's width and their operations: load, store, sum, transpose, exp.
//
// They use the compilers' vector extension and no machine instructions by name. L is the number of lanes: 16 floats
// with AVX-512, 8 with AVX2, 4 with NEON.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#define UNROLL_BY_4 _Pragma("unroll 4")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define UNROLL_BY_4 _Pragma("GCC unroll 4")
#endif
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace ttt {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, VECTOR_REGISTERS = 32;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, VECTOR_REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16, VECTOR_REGISTERS = 32;
#else
constexpr int VECTOR_BYTES = 16, VECTOR_REGISTERS = 16;
#endif

template <class T>
constexpr int LANES = VECTOR_BYTES / sizeof(T);

template <class T>
struct VectorOf {
    typedef T type __attribute__((vector_size(VECTOR_BYTES)));
    typedef T anywhere __attribute__((vector_size(VECTOR_BYTES), aligned(alignof(T)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;
using Integers = VectorOf<int32_t>::type;  // as many as floats

template <class T>
INLINE Vector<T> load(const T* from) {
    return *reinterpret_cast<const typename VectorOf<T>::anywhere*>(from);
}

template <class T>
INLINE void store(T* to, Vector<T> x) {
    *reinterpret_cast<typename VectorOf<T>::anywhere*>(to) = x;
}

template <class T>
INLINE Vector<T> all(T x) {
    return x - Vector<T>{};  // not 0 + x, which would turn -0 into 0 and so cost an instruction
}

// The lanes of a and b, numbered 0 to 2L - 1, that Order::lane picks.
template <class T, class Order, int... I>
INLINE Vector<T> shuffle(Vector<T> a, Vector<T> b, std::integer_sequence<int, I...>) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, Order::lane(I)...);
#else
    using Lane = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    return __builtin_shuffle(a, b, Vector<Lane>{Order::lane(I)...});
#endif
}

template <class T, class Order>
INLINE Vector<T> shuffle(Vector<T> a, Vector<T> b) {
    return shuffle<T, Order>(a, b, std::make_integer_sequence<int, LANES<T>>{});
}

// Half HALF (0 or 1) of a0 b0 a1 b1 a2 b2 ...
template <int L, int HALF>
struct Zip {
    static constexpr int lane(int i) { return (HALF * L + i) / 2 + (i % 2) * L; }
};

template <int DISTANCE>
struct Swap {
    static constexpr int lane(int i) { return i ^ DISTANCE; }
};

template <class T, int DISTANCE = LANES<T> / 2>
INLINE T sum_lanes(Vector<T> x) {
    x += shuffle<T, Swap<DISTANCE>>(x, x);
    if constexpr (DISTANCE == 1) {
        return x[0];
    } else {
        return sum_lanes<T, DISTANCE / 2>(x);
    }
}

// x or, in lanes with the bit DISTANCE, y; if PARTNER, of the lane that differs in this bit.
template <int L, int DISTANCE, bool PARTNER>
struct Merge {
    static constexpr int lane(int i) { return (PARTNER ? i ^ DISTANCE : i) + (i & DISTANCE ? L : 0); }
};

// Adds lanes of each of COUNT vectors, so that one vector holds them all: the sum of its lanes i, i + COUNT, ... is the
// sum of the lanes of x[i]. COUNT is a power of two, and at most L.
template <class T, int COUNT, int DISTANCE = 1>
INLINE Vector<T> merged_lanes(const Vector<T>* x) {
    constexpr int L = LANES<T>;
    if constexpr (COUNT == 1) {
        return x[0];
    } else {
        Vector<T> merged[COUNT / 2];
        UNROLL for (int i = 0; i < COUNT / 2; i++) {
            const Vector<T> a = x[2 * i], b = x[2 * i + 1];
            merged[i] = shuffle<T, Merge<L, DISTANCE, false>>(a, b) + shuffle<T, Merge<L, DISTANCE, true>>(a, b);
        }
        return merged_lanes<T, COUNT / 2, 2 * DISTANCE>(merged);
    }
}

// Adds every lane and the one that differs in the bit DISTANCE, and so on up to lanes L / 2 apart.
template <class T, int DISTANCE>
INLINE Vector<T> folded_lanes(Vector<T> x) {
    if constexpr (DISTANCE == LANES<T>) {
        return x;
    } else {
        return folded_lanes<T, 2 * DISTANCE>(x + shuffle<T, Swap<DISTANCE>>(x, x));
    }
}

// Returns the sum of the lanes of x[i] in lane i < COUNT; COUNT is a power of two, and at most L.
template <class T, int COUNT>
INLINE Vector<T> sums_of_lanes(const Vector<T>* x) {
    return folded_lanes<T, COUNT>(merged_lanes<T, COUNT>(x));
}

// Transposes one L x L block, with `rows` rows to read and space for `columns` rows to write. A separate function:
// within a loop, compilers prepare a pointer for every row and run out of registers.
template <class T, bool WHOLE>
__attribute__((noinline)) void transpose_block(
    const T* from, long from_stride, int rows, int columns, T* to, long to_stride
) {
    constexpr int L = LANES<T>;
    Vector<T> block[L];
    UNROLL for (int i = 0; i < L; i++, from += from_stride) block[i] = WHOLE || i < rows ? load(from) : Vector<T>{};
    // log2 L times, zip every row with the row half a block further.
    UNROLL for (int distance = 1; distance < L; distance *= 2) {
        Vector<T> zipped[L];
        UNROLL for (int i = 0; i < L / 2; i++) {
            zipped[2 * i] = shuffle<T, Zip<L, 0>>(block[i], block[i + L / 2]);
            zipped[2 * i + 1] = shuffle<T, Zip<L, 1>>(block[i], block[i + L / 2]);
        }
        UNROLL for (int i = 0; i < L; i++) block[i] = zipped[i];
    }
    UNROLL for (int i = 0; i < L; i++, to += to_stride) {
        if (WHOLE || i < columns) store(to, block[i]);
    }
}

// to[c][r] = from[r][c] for r < rows, c < columns; for r from there to padded_rows, 0. It reads and
// writes whole vectors: the rows of both have space up to a multiple of L.
template <class T>
void transpose(const T* from, long from_stride, int rows, int padded_rows, int columns, T* to, long to_stride) {
    constexpr int L = LANES<T>;
    for (int r = 0; r < padded_rows; r += L) {
        for (int c = 0; c < columns; c += L) {
            const bool whole = r + L <= rows && c + L <= columns;
            const auto block = whole ? transpose_block<T, true> : transpose_block<T, false>;
            block(from + r * from_stride + c, from_stride, rows - r, columns - c, to + c * to_stride + r, to_stride);
        }
    }
}

// Prefetches rows [rows, columns] of a tensor.
template <class T>
INLINE void prefetch(const T* from, long stride, int rows, int columns) {
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < columns; c += 64 / sizeof(T)) __builtin_prefetch(from + r * stride + c);
    }
}

template <class T, class Function>
INLINE Vector<T> each_lane(Vector<T> x, Function function) {
    T lanes[LANES<T>];
    store(lanes, x);
    for (T& lane : lanes) lane = function(lane);
    return load(lanes);
}

template <class T>
INLINE Vector<T> reciprocal_root(Vector<T> x) {
    return each_lane<T>(x, [](T lane) { return 1 / std::sqrt(lane); });
}

INLINE Vector<double> exp_of_negative(Vector<double> x) {
    return each_lane<double>(x, [](double lane) { return std::exp(lane); });
}

// exp(x) for x <= 0 with a relative error of 1e-7: 2^n exp(r) with x = n ln 2 + r and |r| <= ln 2 / 2.
// Below -87, where the result would be subnormal, it is exp(-87). NaN stays NaN, because no comparison with it holds.
INLINE Vector<float> exp_of_negative(Vector<float> x) {
    constexpr float SHIFTER = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, kept in the lowest bits
    x = x < -87.0f ? all(-87.0f) : x;
    const Vector<float> shifted = x * 1.44269504f + SHIFTER;
    const Vector<float> n = shifted - SHIFTER;
    const Vector<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts, the first exact
    Vector<float> series = r * 1.9875691500e-4f + 1.3981999507e-3f;
    series = series * r + 8.3334519073e-3f;
    series = series * r + 4.1665795894e-2f;
    series = series * r + 1.6666665459e-1f;
    series = series * r + 5.0000001201e-1f;
    series = series * r * r + r + 1.0f;
    Integers bits, exponent;
    std::memcpy(&bits, &series, sizeof bits);
    std::memcpy(&exponent, &shifted, sizeof exponent);
    bits += exponent << 23;
    std::memcpy(&series, &bits, sizeof bits);
    return series;
}

INLINE Vector<double> exp2_of_negative(Vector<double> x) {
    return each_lane<double>(x, [](double lane) { return std::exp2(lane); });
}

// 2^x for x <= 0 with a relative error of 1e-7: 2^n 2^r with x = n + r and |r| <= 1 / 2. Below -125, where it would
// soon be subnormal, n is -125. The polynomial has the least maximum of the relative error, 2e-9, of those that are 1
// at 0. If x is a product, it is not rounded: compilers contract it.
INLINE Vector<float> exp2_of_negative(Vector<float> x) {
    constexpr float SHIFTER = 12582912.0f + 127;  // adding it rounds to n, and leaves n + 127 in the lowest bits
    const Integers LEAST = Integers{} + (0x4B400000 + 127 - 125);  // the bits for n = -125
    const Vector<float> shifted = x + SHIFTER, r = x - (shifted - SHIFTER);
    Vector<float> series = r * 1.535686661e-4f + 1.339895932e-3f;
    series = series * r + 9.618422722e-3f;
    series = series * r + 5.550332253e-2f;
    series = series * r + 2.402264806e-1f;
    series = series * r + 6.931472029e-1f;
    series = series * r + 1.0f;
    Integers bits;
    Vector<float> power;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits > LEAST ? bits : LEAST) << 23;
    std::memcpy(&power, &bits, sizeof bits);
    return series * power;
}

}  // namespace ttt

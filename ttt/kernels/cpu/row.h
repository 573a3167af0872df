// A row of numbers as vectors, for the kernels that compute a token at a time.
#pragma once

#include "simd.h"

namespace ttt {

// A row of C numbers as vectors; lanes beyond its end read 0 and are not written.
template <class T>
struct Row {
    using Value = std::remove_const_t<T>;
    T* at;
    long C;

    INLINE Vector<Value> operator[](long c) const {
        if (c + LANES<Value> <= C) return load<Value>(at + c);
        Vector<Value> x{};
        std::memcpy(&x, at + c, (C - c) * sizeof(T));
        return x;
    }

    INLINE void set(long c, Vector<Value> x) const {
        if (c + LANES<Value> <= C) return store<Value>(at + c, x);
        std::memcpy(at + c, &x, (C - c) * sizeof(T));
    }

    INLINE void add(long c, Vector<Value> x) const { set(c, (*this)[c] + x); }
};

template <class T>
using Read = Row<const T>;

// Calls body(c) for the first channel c of each vector. Only the last call's vector can reach beyond the row's end.
template <class T, class Body>
INLINE void along_row(long C, const Body& body) {
    long c = 0;
    for (; c + LANES<T> <= C; c += LANES<T>) body(c);
    if (c < C) body(c);
}

// Returns the length of rows of equal length, so that the compiler knows that it needs to compare only one.
template <class First, class... Others>
INLINE long length_of(First& first, Others&... others) {
    ((others.C = first.C), ...);
    return first.C;
}

template <class T>
void add(Read<T> x, Read<T> y, Row<T> sum) {
    along_row<T>(length_of(x, y, sum), [&](long c) INLINE_LAMBDA { sum.set(c, x[c] + y[c]); });
}

}  // namespace ttt

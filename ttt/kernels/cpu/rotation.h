// RoPE: the rotation of the pairs (2 i, 2 i + 1) of q and k by an angle for every place of a mini-batch.
//
// Shapes: D head width, b mini-batch size.
#pragma once

#include "kernel.h"
#include "memory.h"
#include "simd.h"

namespace ttt {

template <class T>
class Rotation {
  public:
    // table [b, D]: cosines and sines in turn; null for no rotation.
    Rotation(const Sizes& sizes, const T* table, Arena<T>& arena) : D(sizes.D), b(sizes.b) {
        if (!table) return;
        cosines = arena.take(long(b) * D), sines = arena.take(long(b) * D);
        for (long n = 0; n < long(b) * D; n++) {
            const T sine = table[n | 1];
            cosines[n] = table[n & ~1L], sines[n] = n % 2 ? sine : -sine;
        }
    }

    bool is_given() const { return cosines; }

    // to [b, D], dense, = the rotated rows.
    void turn(const T* rows, long stride, T* to) const {
        for (int j = 0; j < b; j++) turn_row(rows + j * stride, j, T(1), to + j * D);
    }

    // Rotates rows by the opposite angles, in place: from gradients of rotated rows to those of the rows.
    void turn_back(T* rows, long stride) const {
        for (int j = 0; j < b; j++) turn_row(rows + j * stride, j, T(-1), rows + j * stride);
    }

  private:
    INLINE void turn_row(const T* row, int j, T sign, T* to) const {
        for (int d = 0; d < D; d += LANES<T>) {
            const Vector<T> x = load(row + d), partner = shuffle<T, Swap<1>>(x, x);
            store<T>(to + d, x * load(cosines + j * D + d) + sign * partner * load(sines + j * D + d));
        }
    }

    const int D, b;
    T *cosines = nullptr, *sines = nullptr;  // [b, D]; sines of the first of a pair are negative
};

}  // namespace ttt

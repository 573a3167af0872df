// GELU in its tanh form with its first two derivatives, elementwise.
//
// gelu(z) = z s(w) with the logistic function s and w = 2 sqrt(2 / pi) (z + 0.044715 z^3): the tanh form.
#pragma once

#include "simd.h"

namespace ttt {

template <class T>
struct Gelu {
    static constexpr T SLOPE = T(1.5957691216057308), CUBIC = T(0.044715);  // 2 sqrt(2 / pi)
    Vector<T> value, first, second;

    INLINE explicit Gelu(Vector<T> z) {
        const Vector<T> square = z * z;
        const Vector<T> w = SLOPE * z * (1 + CUBIC * square);
        // Computed from exp(-|w|), so that neither s nor 1 - s loses digits for any sign of w.
        const Vector<T> decay = exp_of_negative(w < 0 ? w : -w), large = 1 / (1 + decay), small = decay * large;
        const Vector<T> s = w < 0 ? small : large, slope_s = small * large;
        const Vector<T> slope_w = SLOPE * (1 + 3 * CUBIC * square);
        value = z * s;
        first = s + z * slope_s * slope_w;
        second = slope_s * (2 * slope_w + z * ((1 - 2 * s) * slope_w * slope_w + 6 * CUBIC * SLOPE * z));
    }
};

}  // namespace ttt

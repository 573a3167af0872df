// softplus(x) = log(1 + exp(x)) and its derivative, as vectors.
#pragma once

#include "simd.h"

namespace ttt {

INLINE Vector<double> log_of_one_plus(Vector<double> x) {
    return each_lane<double>(x, [](double lane) { return std::log1p(lane); });
}

// log(1 + x) for 0 <= x <= 1: 2 artanh(s) with s = x / (2 + x), whose series ends below the precision at s^17.
INLINE Vector<float> log_of_one_plus(Vector<float> x) {
    const Vector<float> s = x / (2 + x), square = s * s;
    Vector<float> series = square * (1.0f / 17) + 1.0f / 15;
    for (const float odd : {13.0f, 11.0f, 9.0f, 7.0f, 5.0f, 3.0f, 1.0f}) series = series * square + 1 / odd;
    return 2 * s * series;
}

// With |x| in the exponential, which can then not overflow.
template <class T>
class Softplus {
  public:
    INLINE explicit Softplus(Vector<T> x) : x(x), decay(exp_of_negative(x < 0 ? x : -x)) {}

    INLINE Vector<T> value() const { return (x < 0 ? x - x : x) + log_of_one_plus(decay); }
    INLINE Vector<T> first() const { return (x < 0 ? decay : decay - decay + 1) / (1 + decay); }

  private:
    const Vector<T> x, decay;
};

}  // namespace ttt

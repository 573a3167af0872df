// RMSNorm, LN with a gate, and the product of SwiGLU, forward and backward, one row at a time.
//
// A row is a token; it stays in the first cache, so that what a pass needs again is computed again instead of kept.
// Shapes: C channels of a row, any number.
#pragma once

#include "gelu.h"
#include "row.h"

namespace ttt {

// silu(z) = z s(z) with the logistic function s, and its derivative.
template <class T>
struct Silu {
    Vector<T> value, first;

    INLINE explicit Silu(Vector<T> z) {
        const Vector<T> decay = exp_of_negative(z < 0 ? z : -z), large = 1 / (1 + decay), small = decay * large;
        value = z * (z < 0 ? small : large);
        first = (z < 0 ? small : large) + z * small * large;
    }
};

template <class T>
INLINE T root_mean_square_inverse(Read<T> x, T eps) {
    Vector<T> sum{};
    for (long c = 0; c < x.C; c += LANES<T>) sum += x[c] * x[c];
    return 1 / std::sqrt(sum_lanes<T>(sum) / x.C + eps);
}

// y = x / sqrt(mean(x^2) + eps) * weight.
template <class T>
void rms_norm(Read<T> x, Read<T> weight, T eps, Row<T> y) {
    const T scale = root_mean_square_inverse(x, eps);
    const long C = length_of(x, weight, y);
    along_row<T>(C, [&](long c) INLINE_LAMBDA { y.set(c, x[c] * scale * weight[c]); });
}

// dx is `dx_before` plus the gradient of x; adds to the gradient of weight.
template <class T>
void rms_norm_backward(Read<T> dy, Read<T> dx_before, Read<T> x, Read<T> weight, T eps, Row<T> dx, Row<T> dweight) {
    const long C = length_of(x, dy, weight, dx, dweight);
    const T scale = root_mean_square_inverse(x, eps);
    Vector<T> sum{};
    along_row<T>(C, [&](long c) INLINE_LAMBDA { sum += dy[c] * weight[c] * x[c]; });
    const T along = sum_lanes<T>(sum) / C * scale * scale;
    along_row<T>(C, [&](long c) INLINE_LAMBDA {
        const Vector<T> upstream = dy[c], input = x[c];
        dweight.add(c, upstream * input * scale);
        dx.set(c, (dx_before.C ? dx_before[c] : Vector<T>{}) + scale * (upstream * weight[c] - input * along));
    });
}

template <class T>
struct MeanAndScale {
    T mean, scale;  // scale: 1 / sqrt(variance + eps)

    INLINE MeanAndScale(Read<T> x, T eps) {
        Vector<T> sum{}, squares{};
        for (long c = 0; c < x.C; c += LANES<T>) sum += x[c];
        mean = sum_lanes<T>(sum) / x.C;
        for (long c = 0; c < x.C; c += LANES<T>) {
            Vector<T> difference = x[c] - mean;
            if (c + LANES<T> > x.C) difference = first_lanes(difference, x.C - c);
            squares += difference * difference;
        }
        scale = 1 / std::sqrt(sum_lanes<T>(squares) / x.C + eps);
    }

    static INLINE Vector<T> first_lanes(Vector<T> x, long count) {
        for (long lane = count; lane < LANES<T>; lane++) x[lane] = 0;
        return x;
    }
};

// y = GELU(gate) * (LN(x) * weight + bias).
template <class T>
void gated_norm(Read<T> x, Read<T> gate, Read<T> weight, Read<T> bias, T eps, Row<T> y) {
    const long C = length_of(x, gate, weight, bias, y);
    const MeanAndScale<T> norm(x, eps);
    along_row<T>(C, [&](long c) INLINE_LAMBDA {
        const Vector<T> unit = (x[c] - norm.mean) * norm.scale;
        y.set(c, Gelu<T>(gate[c]).value * (unit * weight[c] + bias[c]));
    });
}

// Writes the gradients of x and gate; adds to those of weight and bias.
template <class T>
void gated_norm_backward(
    Read<T> dy, Read<T> x, Read<T> gate, Read<T> weight, Read<T> bias, T eps, Row<T> dx, Row<T> dgate, Row<T> dweight,
    Row<T> dbias
) {
    const long C = length_of(x, dy, gate, weight, bias, dx, dgate, dweight, dbias);
    const MeanAndScale<T> norm(x, eps);
    Vector<T> sum{}, sum_along{};
    along_row<T>(C, [&](long c) INLINE_LAMBDA {
        const Vector<T> unit = (x[c] - norm.mean) * norm.scale, upstream = dy[c];
        const Gelu<T> gelu(gate[c]);
        dgate.set(c, upstream * gelu.first * (unit * weight[c] + bias[c]));
        const Vector<T> to_norm = upstream * gelu.value, to_unit = to_norm * weight[c];
        dweight.add(c, to_norm * unit);
        dbias.add(c, to_norm);
        dx.set(c, to_unit);  // 0 beyond the row's end, as upstream is
        sum += to_unit, sum_along += to_unit * unit;
    });
    const T mean = sum_lanes<T>(sum) / C, along = sum_lanes<T>(sum_along) / C;
    along_row<T>(C, [&](long c) INLINE_LAMBDA {
        const Vector<T> unit = (x[c] - norm.mean) * norm.scale;
        dx.set(c, norm.scale * (dx[c] - mean - unit * along));
    });
}

// product = silu(gate) * up.
template <class T>
void gated_product(Read<T> gate, Read<T> up, Row<T> product) {
    const long C = length_of(gate, up, product);
    along_row<T>(C, [&](long c) INLINE_LAMBDA { product.set(c, Silu<T>(gate[c]).value * up[c]); });
}

// Writes the gradients of gate and up, and the product itself.
template <class T>
void gated_product_backward(Read<T> upstream, Read<T> gate, Read<T> up, Row<T> dgate, Row<T> dup, Row<T> product) {
    const long C = length_of(gate, upstream, up, dgate, dup, product);
    along_row<T>(C, [&](long c) INLINE_LAMBDA {
        const Silu<T> silu(gate[c]);
        const Vector<T> factor = up[c], d = upstream[c];
        dgate.set(c, d * factor * silu.first);
        dup.set(c, d * silu.value);
        product.set(c, silu.value * factor);
    });
}

}  // namespace ttt

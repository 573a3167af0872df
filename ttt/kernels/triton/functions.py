"""Functions that all kernels use: masked loads and stores, products, LN of the inner model, GELU, and derivatives.

Shapes: a tile has R rows, the b tokens of a mini-batch padded to a power of two of at least 16, and P columns, the head
width D padded likewise. The mask ``m`` [R, P] is true for real tokens and coordinates; tiles are 0 elsewhere. With
``PADDED`` false nothing is padded, and ``m`` is not read. Arguments without a prefix are tiles; ``README.md`` explains
the prefixes in kernels.
"""

import triton
import triton.language as tl

EPS = tl.constexpr(1e-6)
"""Equal to ``ttt.inner.layer_norm.EPS``."""

TWO_SQRT_2_OVER_PI = tl.constexpr(1.5957691216057308)
"""gelu(x) = x / 2 (1 + tanh(u / 2)) = x sigmoid(u), u = 2 sqrt(2 / pi) (x + 0.044715 x^3)."""

GELU_CUBIC = tl.constexpr(0.044715)

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def dot(a, b, accumulator=None):
    """Return a b + accumulator in float32; "ieee", because tf32, the default for float32, keeps 10 of 23 bits."""
    return tl.dot(a, b, accumulator, input_precision="ieee")


@triton.jit
def load(p, m, PADDED: tl.constexpr):
    """Return the values where ``m`` is true, 0 elsewhere."""
    if PADDED:
        x = tl.load(p, mask=m, other=0.0)
    else:
        x = tl.load(p)
    return x


@triton.jit
def store(p, x, m, PADDED: tl.constexpr):
    """Write ``x`` where ``m`` is true, rounded to the pointers' type."""
    x = x.to(p.dtype.element_ty)
    if PADDED:
        tl.store(p, x, mask=m)
    else:
        tl.store(p, x)


@triton.jit
def keep(x, m, PADDED: tl.constexpr):
    """Return ``x`` where ``m`` is true, 0 elsewhere."""
    if PADDED:
        x = tl.where(m, x, 0.0)
    return x


@triton.jit
def mean(x, D: tl.constexpr):
    """Return the mean over the D coordinates of each row, [R, 1]."""
    return (tl.sum(x, 1) / D)[:, None]


@triton.jit
def two_means(x, y, D: tl.constexpr):
    """Return ``mean`` of ``x`` and of ``y``. Warps exchange their sums once instead of twice."""
    x, y = tl.split(tl.sum(tl.join(x, y), 1) / D)
    return x[:, None], y[:, None]


@triton.jit
def standardise(x, m, D: tl.constexpr, PADDED: tl.constexpr):
    """Return ``x`` scaled to mean 0 and variance 1 in each row, and the reciprocal standard deviation [R, 1]."""
    centred = keep(x - mean(x, D), m, PADDED)
    reciprocal_std = tl.rsqrt(mean(centred * centred, D) + EPS)
    return centred * reciprocal_std, reciprocal_std


@triton.jit
def standardise_backward(d_unit, unit, reciprocal_std, m, D: tl.constexpr, PADDED: tl.constexpr):
    """Return the gradient of the input of ``standardise`` from the gradient of its first result; equation (2)."""
    of_d, of_product = two_means(d_unit, d_unit * unit, D)
    centred = d_unit - of_d - unit * of_product
    return keep(centred, m, PADDED) * reciprocal_std


@triton.jit
def loss_gradient(z, target, scale, shift, m, D: tl.constexpr, PADDED: tl.constexpr):
    """Return G, the gradient of 1/2 || LN(z) - target ||^2 with respect to z, row by row."""
    unit, reciprocal_std = standardise(z, m, D, PADDED)
    upstream = (scale * unit + shift - target) * scale
    return standardise_backward(upstream, unit, reciprocal_std, m, D, PADDED)


@triton.jit
def loss_gradient_kept(z, target, scale, shift, m, D: tl.constexpr, PADDED: tl.constexpr):
    """Return G and the values that its derivative needs: unit, r, the residual LN(z) - target, and mean(E unit)."""
    unit, reciprocal_std = standardise(z, m, D, PADDED)
    residual = scale * unit + shift - target
    E = residual * scale
    of_E, E_unit = two_means(E, E * unit, D)
    G = keep(E - of_E - unit * E_unit, m, PADDED) * reciprocal_std
    return G, unit, reciprocal_std, residual, E_unit


@triton.jit
def loss_gradient_backward(
    dG, G, unit, reciprocal_std, residual, E_unit, scale, m, D: tl.constexpr, PADDED: tl.constexpr
):
    """Return the gradients of Z, of the residual and of the scale [P] from dG; equation (6) of ``README.md``."""
    rdG = dG * reciprocal_std
    of_rdG, rdG_unit = two_means(rdG, rdG * unit, D)
    dE = keep(rdG - of_rdG - unit * rdG_unit, m, PADDED)
    d_residual = dE * scale
    d_scale = tl.sum(dE * residual + d_residual * unit, 0)
    d_unit = d_residual * scale - rdG * E_unit - residual * scale * rdG_unit
    dZ = standardise_backward(d_unit, unit, reciprocal_std, m, D, PADDED)
    return dZ - keep(unit * mean(dG * G, D) * reciprocal_std, m, PADDED), d_residual, d_scale


@triton.jit
def gelu_gate(x):
    """Return sigmoid(u), the factor of x in gelu(x)."""
    # The constants are on the right: Triton's interpreter cannot multiply a constant by a tensor.
    # 1 / (1 + exp(-u)). A division takes four times as many instructions as a square of 1 / sqrt, and exp two more
    # than exp2; the square is off by three units in the last place of 1.
    root = tl.rsqrt(1.0 + tl.exp2(x * (x * x * GELU_CUBIC + 1.0) * (-LOG2_E * TWO_SQRT_2_OVER_PI)))
    return root * root


@triton.jit
def gelu(x):
    """Return GELU of ``x``, in its tanh form."""
    return x * gelu_gate(x)


@triton.jit
def gelu_and_slope(x):
    """Return gelu(x) and gelu'(x) = s + x s (1 - s) u', with s = sigmoid(u)."""
    s = gelu_gate(x)
    slope_of_u = (x * x * (3.0 * GELU_CUBIC) + 1.0) * TWO_SQRT_2_OVER_PI
    return x * s, s + x * s * (1.0 - s) * slope_of_u


@triton.jit
def gelu_slope_and_curvature(x):
    """Return gelu'(x) and gelu''(x) = s (1 - s) (2 u' + x ((1 - 2 s) u'^2 + u''))."""
    s = gelu_gate(x)
    slope_of_u = (x * x * (3.0 * GELU_CUBIC) + 1.0) * TWO_SQRT_2_OVER_PI
    curvature_of_u = x * (6.0 * GELU_CUBIC * TWO_SQRT_2_OVER_PI)
    p = s * (1.0 - s)
    slope = s + x * p * slope_of_u
    return slope, p * (2.0 * slope_of_u + x * ((1.0 - 2.0 * s) * slope_of_u * slope_of_u + curvature_of_u))

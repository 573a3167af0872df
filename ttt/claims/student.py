"""Student's t distribution, by mpmath's incomplete beta function; torch requires mpmath too.

SciPy would do the same, but where it is installed, importing Lightning takes 1.6 times as long.
"""

import math
from functools import cache
from statistics import NormalDist

from mpmath import betainc, findroot

LEVEL = 0.05
"""Two-sided level of the tests, and 1 minus the confidence of the intervals."""


def two_sided_p(t: float, df: int) -> float:
    """Return the probability of a value at least as far from 0 as ``t``, with ``df`` degrees of freedom."""
    return float(betainc(df / 2, 0.5, 0, df / (df + t * t), regularized=True))


@cache
def critical(df: int) -> float:
    """Return the value that is exceeded on either side with a probability of ``LEVEL``."""
    # It lies between the normal distribution's 1.96 and 12.71, for one degree of freedom.
    return float(findroot(lambda t: two_sided_p(t, df) - LEVEL, (1.9, 13.0), solver="anderson", tol=1e-12))


def power(size: float, pairs: int) -> float:
    """Return about the power of the test for an effect of ``size`` standard deviations (Johnson and Welch 1940)."""
    df, bound = pairs - 1, critical(pairs - 1)
    shifted = size * math.sqrt(pairs) - bound * (1 - 1 / (4 * df))
    return NormalDist().cdf(shifted / math.sqrt(1 + bound * bound / (2 * df)))

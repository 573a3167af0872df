"""Running means."""

import numpy as np


def window_means(x: np.ndarray, values: np.ndarray, centres: np.ndarray, width: float) -> np.ndarray:
    """Return the mean of ``values`` at ``x`` (both [N], ``x`` rising) within ``width / 2`` of each centre: [M].

    Windows are cut off at the ends; an empty window gives NaN.
    """
    total = np.append(0.0, np.cumsum(values))
    first = np.searchsorted(x, centres - width / 2, side="left")
    end = np.searchsorted(x, centres + width / 2, side="right")
    count = (end - first).astype(float)
    return np.divide(total[end] - total[first], count, out=np.full(len(count), np.nan), where=count > 0)

"""Times that stand out, which are measured again before a benchmark ends.

A time stands out if its quartiles are more than ``WIDEST`` of the median apart, or if its time per token is more than
``FARTHEST`` times as long as at both neighbouring contexts of the same model. The second rule cannot judge the shortest
and the longest context. The shorter of the two medians counts, because other work on the machine only adds time. The
row has the number of times that it was measured again, at most ``MOST_TIMES``.
"""

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from ttt.bench.measurement import Implementation, Measurement, Samples, Workload
from ttt.bench.timing import Spread, spread

WIDEST = 0.25
FARTHEST = 1.25
MOST_TIMES = 2


class Place(NamedTuple):
    """A time of a benchmark: of a measure of a workload."""

    workload: Workload
    implementation: Implementation | None
    measure: str


def place_of(measurement: Measurement) -> Place:
    """Return the place of a measurement; equal for measurements that are built again."""
    return Place(measurement.workload, measurement.implementation, measurement.measure)


def per_token(measurement: Measurement, samples: Samples) -> Spread:
    """Return the seconds of a measurement divided by the tokens that it reads."""
    return spread([seconds / measurement.read for seconds in samples.seconds[measurement.measure]])


def standing_out(times: Mapping[Place, Spread]) -> dict[Place, str]:
    """Return the places whose times stand out, and why.

    Args:
        times: per token, of all measurements of a benchmark.
    """
    found = {place: f"quartiles {_share(time):.0%} apart" for place, time in times.items() if _share(time) > WIDEST}
    series = defaultdict(list)
    for place in sorted(times, key=lambda place: place.workload.tokens):
        workload = place.workload
        series[workload.model, workload.backbone, place.implementation, place.measure].append(place)
    for places in series.values():
        for (before, place), (_, after) in pairwise(pairwise(places)):
            ratios = [times[place].median / times[neighbour].median for neighbour in (before, after)]
            if min(ratios) > FARTHEST:
                found[place] = f"{ratios[0]:.2f} and {ratios[1]:.2f} times the time per token of its neighbours"
    return found


def _share(time: Spread) -> float:
    return (time.high - time.low) / time.median

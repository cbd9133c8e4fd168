"""Whether a column of integers looks like counts of events rather than like codes, ratings, ages or amounts."""

from __future__ import annotations

import math
from collections import Counter

from mtl_lightning.data.table.profile import FEW, Profile

_ROWS = 30  # fewer say nothing
_LAST = 0.02  # the largest share that the largest count may have: counts thin out, codes and scales end
_ABOVE = 4.0  # rows that such a distribution has above the largest count, as far as that may be chance
_EVEN = 0.6  # the variance over the mean, below which integers scatter less than counts do
_APART = 0.08  # the total variation from the negative binomial distribution of the same mean and variance
_SCATTERED = 0.8  # the deviation over the mean that many different counts have at least
_DENSE = 6  # of the integers from 0 to 9, how many of these must occur


def looks_counted(profile: Profile) -> bool:
    """Whether integers are distributed as counts are; 0 must be among them.

    Few different ones must be near to the Poisson, or negative binomial, distribution of their mean and variance, in
    total variation, and thin out to the largest. Of many different ones the standard deviation must be at least 0.8 of
    the mean, most integers below 10 must occur, and the largest must be rare. Ages, whose deviation is about half of
    their mean, digits, whose largest is frequent, and ratings from 1 on are none.
    """
    reading = profile.reading
    if not reading.is_integer or reading.lowest[0] != 0 or profile.present < _ROWS or reading.notation.dates:
        return False
    moments = reading.moments.finish()
    mean, variance = moments.mean, moments.squares / moments.count
    found = _frequencies(profile)
    ends = found is not None and found[max(found)] > max(_LAST * profile.present, 2)
    if found is not None and len(found) <= FEW:
        if variance < _EVEN * mean or len(found) < 3:
            return False
        noise = 0.4 * math.sqrt(len(found) / profile.present)
        apart, above = _apart(found, mean, variance)
        return apart <= _APART + noise and (not ends or above * profile.present <= _ABOVE)
    if ends:
        return False
    small = reading.small
    common = int(small.argmax()) <= 3 and 100 * int(small.sum()) >= profile.present
    return bool(math.sqrt(variance) >= _SCATTERED * mean and (small > 0).sum() >= _DENSE and common)


def _frequencies(profile: Profile) -> Counter[int] | None:
    """Return how often each integer was met; None if that is not remembered."""
    if not profile.is_counted:
        return None
    found: Counter[int] = Counter()
    for text, count in profile.counts.items():
        number = profile.reading.notation.parse(text)[0]
        if math.isfinite(number):
            found[int(number)] += count
    return found


def _apart(found: Counter[int], mean: float, variance: float) -> tuple[float, float]:
    """Return how far shares are from those of a Poisson, or a negative binomial, distribution, half the summed
    differences; and the share that the distribution has above the largest.
    """
    rows = found.total()
    expected = [_share(k, mean, variance) for k in range(max(found) + 1)]
    inside = sum(abs(found[k] / rows - share) for k, share in enumerate(expected))
    above = max(0.0, 1 - sum(expected))
    return 0.5 * (inside + above), above


def _share(k: int, mean: float, variance: float) -> float:
    if variance <= 1.001 * mean:
        return math.exp(k * math.log(mean) - mean - math.lgamma(k + 1))
    size = mean * mean / (variance - mean)
    odds = mean / (mean + size)
    log = math.lgamma(k + size) - math.lgamma(size) - math.lgamma(k + 1)
    return math.exp(log + size * math.log1p(-odds) + k * math.log(odds))

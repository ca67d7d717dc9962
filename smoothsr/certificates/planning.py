"""How many certification draws a picture needs, told before they are drawn from a few others.

More draws sharpen a spectral certificate in three ways: less of a rare output can have gone unseen,
the largest eigenvalue is known better, and it is overestimated less. On a large picture, all three
matter little, and few draws do.
"""

import math

import numpy as np

from smoothsr.certificates.evidence import pilot_count
from smoothsr.certificates.spectral_error import Attack, compared, rms_error
from smoothsr.certificates.spectrum import spectrum
from smoothsr.engine.moments import TileMoments

__all__ = ["MOST", "draws_wanted"]

CANDIDATES = (100, 150, 200, 300, 400, 500, 600, 700, 800, 900)
MOST = 1000  # that are worth their time
LOSS = 0.5  # dB that fewer draws than MOST may cost


def draws_wanted(sample: TileMoments, tiles: int, alpha: float, within: Attack) -> int:
    """Choose the fewest draws whose certificate is within half a decibel of that of 1000.

    Args:
        sample: Moments of some tiles, from draws that are used for nothing else.
        tiles: How many tiles the picture has, all taken to be like those.
        alpha: Failure probability of the spectral certificate.
        within: The attack that is asked for.

    Returns:
        One of `CANDIDATES`, or 1000; 1000 where not even that many certify anything.
    """
    best = _predicted_db(sample, tiles, alpha, within, MOST)
    for n in CANDIDATES:
        if _predicted_db(sample, tiles, alpha, within, n) >= best - LOSS:
            return n
    return MOST


def _predicted_db(sample: TileMoments, tiles: int, alpha: float, within: Attack, n: int) -> float:
    """Predict the certified deviation of n draws in dB, up to a constant."""
    made = spectrum(_predicted_moments(sample, tiles, n - pilot_count(n)), alpha)
    found = rms_error(made, within, compared(1, y=False), None)
    return -20 * math.log10(found) if 0 < found < math.inf else 0.0


def _predicted_moments(sample: TileMoments, tiles: int, n: int) -> TileMoments:
    """Predict what n draws of each of more tiles would show.

    The largest eigenvalue of few draws is too large: its root exceeds the true one by about the
    root of trace / n, as for Gaussian draws (Bai and Yin 1993).
    """
    trace = np.sqrt(sample.fourth / sample.n)
    root = np.maximum(np.sqrt(sample.top) - np.sqrt(trace / sample.n), 0.3 * np.sqrt(sample.top))
    grown = n / sample.n
    shown = sample._replace(
        n=n,
        top=(root + np.sqrt(trace / n)) ** 2,
        clipped=sample.clipped * grown,
        fourth=sample.fourth * grown,
    )
    return TileMoments(n, *(np.resize(array, tiles) for array in shown[1:]))

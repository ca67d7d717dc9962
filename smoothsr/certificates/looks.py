"""Early looks: draws of growing number, until what they certify is enough.

Each look is a certificate of draws of its own, at an equal share of alpha. With probability at
least 1 - alpha all of them are right, the one that is stopped at among them, whatever made it the
last (union bound). Proof: docs/certificates.md, section 11.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, takewhile

import numpy as np

from smoothsr.certificates import quantile_bounds
from smoothsr.certificates.certificate import Certificate
from smoothsr.certificates.evidence import PILOTS, Evidence, Request, levels_alpha
from smoothsr.engine.arguments import require_integer
from smoothsr.engine.draws import Progress
from smoothsr.files.parts import Parts

__all__ = ["Enough", "counted", "plan", "require_looks", "until_enough"]

RATIO = 3  # of the draws of a look to those of the one before: all together are half more than n

Enough = Callable[[Certificate], bool]
"""Tells whether what a certificate says is enough; may ask anything of it."""
Draw = Callable[[Request, np.ndarray | None, Progress | None], Evidence]
"""Makes the evidence of a look, beside the served output (1,C,H,W) of the looks before: none of
them depends on it.
"""
Progresses = Sequence[Progress | None]


def require_looks(looks: int, enough: Enough | None, parts: Parts | None) -> None:
    """Refuse looks that nobody asks anything, and those of processes that do not wait for what the
    others' draws show.

    Raises:
        ValueError: If looks is no positive integer, or does not go with the others.
    """
    require_integer("looks", looks, 1)
    if (looks > 1) != (enough is not None):
        found = "no enough" if enough is None else "enough"
        raise ValueError(
            "several looks and a function enough, which tells whether to stop, go together; got "
            f"looks={looks} and {found}"
        )
    if looks > 1 and parts and parts.ranks > 1 and not parts.together:
        raise ValueError(
            f"looks={looks} of {parts.ranks} processes take Parts(together=...), since each waits "
            "for what the others' draws show: pass it, run one process, or pass looks=1"
        )


def plan(request: Request, looks: int, values: int) -> list[Request]:
    """Plan looks ahead: a third of the draws in each but the last, and an equal share of alpha.

    Looks so early that nothing could be certified are left out, and take no share.

    Args:
        request: What is asked for; its n are the draws of the last look, its alpha that of all.
        looks: At most so many.
        values: How many output values must hold at once.

    Returns:
        The request of each look, from the fewest draws to the most.

    Example:
        >>> request = Request(1000, 1e-3, 32, "image", "spectral")
        >>> [each.n for each in plan(request, 5, 10_000)]
        [37, 111, 333, 1000]
    """
    least = _least(request._replace(alpha=request.alpha / looks), values)
    fewer = (request.n // RATIO**back for back in range(looks))
    counts = [*takewhile(lambda n: n >= least, fewer)] or [request.n]
    return [request._replace(n=n, alpha=request.alpha / len(counts)) for n in reversed(counts)]


def until_enough(
    requests: Sequence[Request],
    draw: Draw,
    made: Callable[[Evidence], Certificate],
    enough: Enough | None,
    progress: Progresses,
) -> Certificate:
    """Look at one certificate after the other, up to the first that is enough, or to the last.

    Args:
        requests: Of each look, from `plan`.
        draw: Makes a look's evidence.
        made: Makes its certificate.
        enough: Is not asked of the last one.
        progress: Of each look.
    """
    served = None
    for request, told in zip(requests, progress, strict=True):
        evidence = draw(request, served, told)
        certificate = made(evidence)
        if request is requests[-1] or (enough and enough(certificate)):
            return certificate
        served = evidence.served
        del evidence, certificate  # before the next ones, which are as large
    raise ValueError("a certificate takes at least one look")


def counted(progress: Progress | None, requests: Sequence[Request], tiles: int) -> Progresses:
    """Make of the progress of all looks that of each, whose draws so far add up.

    A look whose draws are partly there already, or are made by other processes too, tells of those
    that are to be made here only: the others count as done.

    Args:
        progress: Gets (draws done, draws if no look is enough).
        requests: Of each look.
        tiles: How many there are to draw of.
    """
    totals = [request.n * tiles for request in requests]
    return [progress and partial(_tell, progress, last, sum(totals)) for last in accumulate(totals)]


def _tell(progress: Progress, last: int, total: int, done: int, missing: int) -> None:
    progress(max(last - missing, 0) + done, total)


def _least(request: Request, values: int) -> int:
    """The fewest draws by which anything is certified at all, whatever they show."""
    alpha = levels_alpha(request.alpha, request.kind)
    by_levels = quantile_bounds.draws_needed(0.0, alpha, request.levels, values)
    by_spectrum = 2 * PILOTS[0]
    least = {"levels": by_levels, "spectral": by_spectrum, "both": min(by_levels, by_spectrum)}
    return least[request.kind]

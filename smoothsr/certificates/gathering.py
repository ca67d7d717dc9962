"""How the evidence of an image is gathered: by one process, or by parts, of which processes share
the tiles or the draws.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from smoothsr.certificates.band_parts import BandParts, bands_of
from smoothsr.certificates.draw_parts import DrawParts, served_parts, share_draws
from smoothsr.certificates.evidence import Evidence, tile_bytes
from smoothsr.certificates.tile_parts import TileParts
from smoothsr.engine import draws
from smoothsr.engine.draws import Network, NotFiniteError, Sampler
from smoothsr.engine.independence import rounding
from smoothsr.engine.side_by_side import Progress, in_shares, most_threads
from smoothsr.files.parts import Parts

__all__ = ["Wanted", "gather", "gather_by_parts", "require_same_network"]


class Wanted(NamedTuple):
    """What is to be drawn.

    Attributes:
        evidence: Gets what the draws show.
        sampler: Makes the certification draws.
        serving: Makes the served ones, of the same tiles; None where evidence has their output.
        n_serve: How many of these.
        rank: The rank of them that is served, None for the mean.
        base_predictors: Gives some that may run side by side, at most so many, each for tiles
            whose draws take so many bytes; None: the samplers' own, in one thread.
    """

    evidence: Evidence
    sampler: Sampler
    serving: Sampler | None
    n_serve: int
    rank: int | None
    base_predictors: Callable[[int, float], Sequence[Network]] | None = None


def gather(
    wanted: Wanted,
    observer: Evidence | TileParts | None = None,
    progress: Progress | None = None,
) -> None:
    """Serve the sampler's tiles, and show their certification draws, some tiles side by side.

    Args:
        wanted: What is to be drawn.
        observer: Is shown them; None is the evidence itself.
        progress: Called after each batch of certification draws.
    """
    observer, tiles = observer or wanted.evidence, wanted.sampler.tiles
    if not tiles:
        return
    base_predictors = _side_by_side(wanted)
    if len(base_predictors) < 2:
        _gather(wanted, observer, progress)
        return
    work = partial(_gather_some, wanted, observer)
    total = wanted.evidence.request.n * len(tiles)
    in_shares(work, base_predictors, len(tiles), progress, total)


def _gather_some(
    wanted: Wanted,
    observer: Evidence | TileParts,
    f: Network,
    places: Sequence[int],
    progress: Progress,
) -> None:
    """Gather some of the sampler's tiles, by a base predictor that this thread alone has."""
    some = wanted._replace(
        sampler=wanted.sampler.only(places).by(f),
        serving=wanted.serving and wanted.serving.only(places).by(f),
    )

    def served(_done: int, _total: int) -> None:
        progress(0, 0)  # which ends this thread, if it is to end

    try:
        _gather(some, observer.beside(), progress, served)
    except NotFiniteError:
        observer.void()  # though another thread may have failed before, of something else
        raise


def _gather(
    wanted: Wanted,
    observer: Evidence | TileParts,
    progress: Progress | None,
    served: Progress | None = None,
) -> None:
    """Gather the sampler's tiles in this thread."""
    _serve(wanted, served)
    if wanted.evidence.needs_draws:
        draws.observe(wanted.sampler, wanted.evidence.request.n, [observer], progress)
        return
    for tile in wanted.sampler.tiles:
        observer.finish(tile)


def _side_by_side(wanted: Wanted) -> Sequence[Network]:
    """Base predictors for tiles that are drawn side by side; none for one thread."""
    sampler, evidence = wanted.sampler, wanted.evidence
    tiles, request = sampler.tiles, wanted.evidence.request
    if wanted.base_predictors is None:
        return ()
    rows, columns = tiles[0]
    among = sampler.batching.most_among(len(rows.gather) * len(columns.gather))
    most = min(among, most_threads(sampler.lr.device), len(tiles))
    held = tile_bytes(evidence.values_of(tiles[0]), request.n, request.levels)
    return wanted.base_predictors(most, held)


def gather_by_parts(
    wanted: Wanted, parts: Parts, key: str, progress: Progress | None = None
) -> None:
    """Make this process's share of the parts, then join them: of tiles, or of draws where there are
    fewer tiles than processes.

    Args:
        wanted: What is to be drawn.
        parts: The files.
        key: Tells all that the draws depend on.
        progress: Called after each batch of certification draws.

    Raises:
        NotLastError: If another process joins them.
        NotFiniteError: If an output is, now or when the parts were begun: to go on without it
            would choose among draws.
    """
    failed = f"{key}_failed"
    if not parts.missing([failed]):
        raise NotFiniteError(
            f"an output was not finite when {parts.folder} was made: to draw it again would choose "
            "among draws; mend the network, and remove the folder"
        )
    try:
        _gather_by_parts(wanted, parts, key, progress)
    except NotFiniteError:
        parts.add(failed, {})
        raise
    finally:
        parts.drop_alone(f"{key}_probe")


def require_same_network(parts: Parts, key: str, probe: Tensor, precision: torch.dtype) -> None:
    """Refuse parts of a network that does something else with the same weights and options.

    Args:
        parts: The files.
        key: Tells all else that the draws depend on.
        probe: The network's output for a given input.
        precision: Of the network's arithmetic.

    Raises:
        ValueError: If the parts' network made something else of that input.
    """
    found = probe.detach().float().cpu().numpy()
    first = parts.first(f"{key}_probe", {"output": found})["output"]
    if first.shape != found.shape or np.square(first - found).mean() > rounding(precision) ** 2:
        raise ValueError(
            f"{parts.folder} is of a network that has the same weights and does something else: "
            "remove it"
        )


def _serve(wanted: Wanted, progress: Progress | None = None) -> None:
    """Serve the sampler's tiles, unless the evidence has their output."""
    if wanted.serving:
        how = (wanted.n_serve, wanted.rank, progress)
        for tile, output in draws.statistics(wanted.serving, *how):
            wanted.evidence.serve(tile, output.to(wanted.sampler.lr.dtype))


def _gather_by_parts(wanted: Wanted, parts: Parts, key: str, progress: Progress | None) -> None:
    sampler, n = wanted.sampler, wanted.evidence.request.n
    shared = DrawParts(sampler, n, parts, key)
    serving = None
    if wanted.serving:
        serving = served_parts(wanted.serving, wanted.n_serve, wanted.rank, parts, key)
    tiles = TileParts(wanted.evidence, parts, key, sampler.tiles)
    kept = ([serving] if serving else []) + ([shared] if wanted.evidence.needs_draws else [])
    # What an earlier run has drawn is gone on with, however many processes there are now.
    begun = any(each.begun for each in kept)
    if not tiles.begun and (parts.ranks > len(sampler.tiles) or begun):
        drawn = wanted._replace(sampler=shared, serving=serving, base_predictors=None)
        _gather_by_draws(drawn, kept, progress)
        return
    share = tiles.share()
    mine = wanted._replace(
        sampler=sampler.only(share), serving=wanted.serving and wanted.serving.only(share)
    )
    gather(mine, tiles, progress)
    tiles.join()


def _gather_by_draws(wanted: Wanted, kept: Sequence[DrawParts], progress: Progress | None) -> None:
    """Share the draws, then what is made of them, if processes wait for each other; else the last
    one makes it alone.

    Args:
        wanted: Its samplers give what is kept.
        kept: All that is.
        progress: Called after each block of draws.
    """
    evidence, parts = wanted.evidence, kept[0].parts
    names = share_draws(kept, progress)
    tiles = wanted.sampler.tiles
    count = bands_of(evidence.request.n, evidence.served.size // len(tiles))
    if count == 1 or not evidence.needs_draws:
        parts.wait_to_join(names)
        gather(wanted)
        return
    if parts.together:
        parts.meet(names)
    else:
        parts.require_last(names)
    bands = BandParts(evidence, kept[-1], count)
    bands.share()
    bands.join()
    _serve(wanted)

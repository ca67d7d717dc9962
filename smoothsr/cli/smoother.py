"""The smoother that options describe."""

from argparse import Namespace
from dataclasses import dataclass

from smoothsr import SmoothedSR
from smoothsr.adapters import LoadedSR
from smoothsr.cli.loading import for_channels
from smoothsr.engine.lattice import on_lattice
from smoothsr.engine.noise import sigma_text
from smoothsr.files.images import Picture

__all__ = ["SmootherOptions", "smoother"]


@dataclass(frozen=True)
class SmootherOptions:
    """What defines the predictor (sigma, n, agg, tile, halo, precision), and how it is run."""

    sigma: float
    n: int
    agg: str
    tile: int | None
    halo: int
    precision: str
    batch_size: int | None = None
    seed: int | None = None
    lattice: bool | None = None  # None: if all values are whole 8-bit steps

    @classmethod
    def of(cls, args: Namespace) -> "SmootherOptions":
        """Take them from the command line, where tile 0 means none."""
        return cls(
            sigma=args.sigma,
            n=args.n,
            agg=args.agg,
            tile=args.tile or None,
            halo=args.halo,
            precision=args.precision,
            batch_size=args.batch_size,
            seed=getattr(args, "seed", None),
            lattice=args.lattice,
        )

    @property
    def text(self) -> str:
        """The options that define the predictor, as upscale and certify take them."""
        tile = f"--tile {self.tile} --halo {self.halo}" if self.tile else "--tile 0"
        lattice = {None: "", True: " --lattice", False: " --no-lattice"}[self.lattice]
        return (
            f"--sigma {sigma_text(self.sigma)} -n {self.n} --agg {self.agg} {tile} "
            f"--precision {self.precision}{lattice}"
        )


def smoother(options: SmootherOptions, loaded: LoadedSR, picture: Picture) -> SmoothedSR:
    """Wrap the network for a picture as the options say."""
    return SmoothedSR(
        for_channels(loaded, picture.pixels.shape[1]),
        options.sigma,
        options.n,
        options.agg,
        tile=options.tile,
        halo=options.halo,
        batch_size=options.batch_size,
        seed=options.seed,
        lattice=on_lattice(picture.pixels) if options.lattice is None else options.lattice,
    )

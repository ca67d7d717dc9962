"""The smoother that options describe."""

from argparse import Namespace
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import interpolate

from smoothsr import SmoothedSR
from smoothsr.adapters import LoadedSR
from smoothsr.adapters.fitted import padding_advice
from smoothsr.cli.errors import UserError
from smoothsr.cli.loading import Networks, for_channels
from smoothsr.cli.processes import place
from smoothsr.engine.arguments import settled_draws
from smoothsr.engine.lattice import on_lattice
from smoothsr.engine.noise import sigma_text
from smoothsr.engine.precision import fastest
from smoothsr.files.images import Picture

__all__ = ["SmootherOptions", "print_padding_advice", "settled", "smoother"]

TRIED = 64  # side of the patches that precisions are tried on, where there are no tiles
PIXELS = 2**13  # of all of them together


@dataclass(frozen=True)
class SmootherOptions:
    """What defines the predictor (sigma, n, agg, antithetic, tile, halo, denoiser, precision), and
    how it is run.
    """

    sigma: float
    n: int
    agg: str
    tile: int | Literal["auto"] | None
    halo: int
    precision: str
    batch_size: int | None = None
    seed: int | None = None
    memory: float | None = None
    antithetic: bool = False
    halo_noise: float = 1.0
    lattice: bool | None = None  # None: if all values are whole 8-bit steps
    denoiser: str = "none"
    denoiser_sigma: float | None = None

    @classmethod
    def of(cls, args: Namespace) -> "SmootherOptions":
        """Take them from the command line, where tile 0 means none.

        Raises:
            UserError: If a denoiser's strength is given without one, or a halo without tiles.
            ValueError: If another option is out of its range.
        """
        settle_around(args)
        if args.denoiser == "none" and args.denoiser_sigma is not None:
            raise UserError("--denoiser-sigma is what a denoiser is told: add --denoiser builtin")
        n, antithetic = settled_draws(args.n, args.agg, args.antithetic)
        options = cls(
            sigma=args.sigma,
            n=n,
            agg=args.agg,
            tile=args.tile or None,
            halo=args.halo,
            halo_noise=args.halo_noise,
            precision=args.precision,
            batch_size=args.batch_size,
            seed=getattr(args, "seed", None),
            memory=getattr(args, "memory", None),
            antithetic=antithetic,
            lattice=args.lattice,
            denoiser=args.denoiser,
            denoiser_sigma=args.denoiser_sigma,
        )
        before = nn.Identity() if args.denoiser != "none" else None
        options.wrapped(nn.Identity(), before, lattice=False)  # refuses what is out of range
        return options

    def wrapped(
        self,
        network: nn.Module,
        denoiser: nn.Module | None,
        lattice: bool,
        side_by_side: bool = False,
    ) -> SmoothedSR:
        """Wrap a network, with a denoiser in front or none.

        Raises:
            ValueError: If an option is out of its range.
        """
        return SmoothedSR(
            network,
            self.sigma,
            self.n,
            self.agg,
            tile=self.tile,
            halo=self.halo,
            halo_noise=self.halo_noise,
            batch_size=self.batch_size,
            seed=self.seed,
            memory=self.memory,
            antithetic=self.antithetic,
            denoiser=denoiser,
            denoiser_sigma=self.denoiser_sigma,
            lattice=lattice,
            side_by_side=side_by_side,
        )

    @property
    def text(self) -> str:
        """The options that define the predictor, as upscale and certify take them."""
        tile = f"--tile {self.tile or 0}"
        if isinstance(self.tile, int):
            tile += f" --halo {self.halo}"
            tile += f" --halo-noise {self.halo_noise:.15g}" if self.halo_noise > 1 else ""
        agg = self.agg
        if agg == "mean":
            agg += " --antithetic" if self.antithetic else " --no-antithetic"
        denoiser = f" --denoiser {self.denoiser}" if self.denoiser != "none" else ""
        if self.denoiser_sigma is not None:
            denoiser += f" --denoiser-sigma {sigma_text(self.denoiser_sigma)}"
        lattice = {None: "", True: " --lattice", False: " --no-lattice"}[self.lattice]
        return (
            f"--sigma {sigma_text(self.sigma)} -n {self.n} --agg {agg} {tile}{denoiser} "
            f"--precision {self.precision}{lattice}"
        )


def settle_around(args: Namespace) -> None:
    """Fill in halo and its noise where they are not given.

    Raises:
        UserError: If one is given, and no tile.
    """
    for name, usual in vars(args).pop("around", {}).items():
        if getattr(args, name) is None:
            setattr(args, name, usual)
        elif args.tile in (None, 0, "auto"):
            raise UserError(
                f"--{name.replace('_', '-')} is of what is read beyond a tile: add --tile 8, or "
                "another side"
            )


def settled(options: SmootherOptions, networks: Networks) -> SmootherOptions:
    """Replace the precision "auto" by the one that the network runs best in.

    Raises:
        UserError: If several processes would have to agree on it.
    """
    if options.precision != "auto":
        return options
    if place()[1] > 1:
        raise UserError("--precision auto may differ between processes: name one, such as float32")
    side = options.tile + 2 * options.halo if isinstance(options.tile, int) else TRIED
    generator = torch.Generator().manual_seed(0)
    shape = (max(1, PIXELS // side**2), networks.sr.channels)
    coarse = torch.rand((*shape, -(-side // 8), -(-side // 8)), generator=generator)
    smooth = interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    noisy = smooth + options.sigma * torch.randn(smooth.shape, generator=generator)
    found = fastest(networks.sr.model, noisy.to(networks.device))
    return replace(options, precision=str(found).removeprefix("torch."))


def smoother(options: SmootherOptions, networks: Networks, picture: Picture) -> SmoothedSR:
    """Wrap the network for a picture as the options say."""
    network = for_channels(networks.sr, picture.pixels.shape[1])
    lattice = on_lattice(picture.pixels) if options.lattice is None else options.lattice
    return options.wrapped(network, networks.before, lattice, not networks.own)


def print_padding_advice(options: SmootherOptions, loaded: LoadedSR) -> None:
    """Name a tile that needs no padding, where one is given that does."""
    if isinstance(options.tile, int):
        where = (options.tile, options.halo)
        if advice := padding_advice(loaded.multiple_of, loaded.minimum_size, *where):
            print(advice)

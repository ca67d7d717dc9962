"""Draw what smoothing does, on the repository's cat: a bare network under a tiny change, the draws
that smoothing makes of it, and one output value under both.

    python docs/figures/how_smoothing_works.py [--out docs/how_smoothing_works.png]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from smoothsr import adapters, attacks
from smoothsr.files import images

ROOT = Path(__file__).parents[2]
SIGMA = 0.05
EPS = 4 / 255
N = 201  # draws that the histogram shows


def main() -> None:
    """Attack the bare network, draw outputs under noise, and put both into one figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs/how_smoothing_works.png")
    args = parser.parse_args()
    network = adapters.load("builtin-clean").model.requires_grad_(False)
    lr = images.read(ROOT / "examples/cat.png").pixels[..., 16:44, 6:34]
    attacked = attacks.pgd(network, lr, eps=EPS)
    figure = panels(lr, attacked, network)
    figure.savefig(args.out, dpi=80)


def panels(lr: Tensor, attacked: Tensor, network: nn.Module) -> Figure:
    """Draw three rows: the bare network, three draws and their median, one output value.

    Args:
        lr: (1,3,h,w) in [0, 1].
        attacked: The same under a tiny change.
        network: The bare network.
    """
    figure = Figure(figsize=(12, 9.6), layout="constrained")
    bare, moved = (network(image).clamp(0, 1) for image in (lr, attacked))
    clouds = [draws(network, image) for image in (lr, attacked)]
    medians = [cloud.median(0, keepdim=True).values for cloud in clouds]
    grid = figure.add_gridspec(3, 4, height_ratios=(1, 1, 0.72))
    shown = (
        (lr, "the input"),
        (attacked, f"the input, every value changed\nby at most {EPS * 255:.0f} of 255 steps"),
        (bare, "what the network makes of the input"),
        (moved, "what it makes of the changed one"),
        *(
            (clouds[0][i : i + 1], f"draw {i + 1} of {N}: the network's output\nfor a noisy copy")
            for i in range(3)
        ),
        (medians[0], "the median of all draws,\nvalue by value"),
    )
    for place, (image, title) in enumerate(shown):
        axes = figure.add_subplot(grid[divmod(place, 4)])
        axes.imshow(image[0].permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    spot = most_moved(bare, moved)
    histogram(
        figure.add_subplot(grid[2, :]),
        [cloud.flatten(1)[:, spot] for cloud in clouds],
        [image.flatten()[spot] for image in (bare, moved)],
    )
    return figure


def draws(network: nn.Module, lr: Tensor) -> Tensor:
    """Run the network on N noisy copies of lr, (N,3,H,W); the noise is the same for every lr."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(N, *lr.shape[1:], generator=generator)
    return network(lr + SIGMA * noise).clamp(0, 1)


def most_moved(before: Tensor, after: Tensor) -> int:
    """Find the value that differs most between two images."""
    return int((after - before).abs().argmax())


def histogram(axes: Axes, clouds: list[Tensor], bare: list[Tensor]) -> None:
    """Draw one output value's draws, their median, and the bare network's value; before and after
    the change.
    """
    for values, alone, colour, when in zip(
        clouds, bare, ("tab:blue", "tab:orange"), ("before", "after"), strict=True
    ):
        steps = values * 255
        axes.hist(steps.numpy(), bins=range(0, 256, 5), color=colour, alpha=0.4)
        axes.axvline(float(steps.median()), color=colour, label=f"median of the draws, {when}")
        axes.axvline(
            float(alone * 255),
            color=colour,
            linestyle=":",
            linewidth=3,
            label=f"bare network, {when}",
        )
    axes.set_xlabel("the output value that the change moves most, in 8-bit steps", fontsize=10)
    axes.set_ylabel("draws", fontsize=10)
    axes.legend(fontsize=10)


if __name__ == "__main__":
    main()

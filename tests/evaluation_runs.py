"""Small image files, and a count of what is measured, for the tests of evaluate and sweep."""

import json

import torch
from torch.nn import functional as F

from smoothsr.cli import main
from smoothsr.evaluation import study
from smoothsr.files import images
from smoothsr.files.images import Picture

__all__ = ["counted", "error_of", "evaluate", "leftovers", "photo", "scores", "write"]


def photo(seed, height=37, width=41, channels=3):
    """A picture (1,C,height,width) of 8-bit values with coarse and fine detail."""
    generator = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(
        torch.rand(1, channels, 5, 5, generator=generator), (height, width), mode="bilinear"
    )
    fine = torch.rand(1, channels, height, width, generator=generator)
    return (0.8 * coarse + 0.2 * fine).mul(255).round() / 255


def write(folder, **pictures):
    """Write pictures as PNG files of these names."""
    folder.mkdir(exist_ok=True)
    for name, pixels in pictures.items():
        images.write(folder / f"{name}.png", Picture(pixels))
    return folder


def counted(monkeypatch):
    """A list that gets the condition's input for each output that is measured from now on."""
    outputs, real = [], study.serve

    def serve(model, lr, seed):
        outputs.append(lr)
        return real(model, lr, seed)

    monkeypatch.setattr(study, "serve", serve)
    return outputs


def error_of(capsys, command):
    """The one line on stderr by which a command refuses."""
    capsys.readouterr()
    assert main(command) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("smoothsr: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def leftovers(folder):
    """Files that were begun and not finished."""
    return [path.name for path in folder.rglob("*") if path.suffix == ".part"]


def evaluate(hr, out, *more, attacks="none", metrics="psnr", n=3):
    """The words of a command."""
    options = ["--attack", attacks, "--metrics", metrics, "-n", n, "-o", out, *more]
    return [str(word) for word in ("evaluate", "--hr", hr, *options)]


def scores(out):
    """{(image, model, sigma, condition): scores}."""
    records = json.loads((out / "evaluate.json").read_text())["records"]
    return {
        tuple(record[key] for key in ("image", "model", "sigma", "condition")): record["scores"]
        for record in records
    }

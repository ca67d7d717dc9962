"""A small network and a study of it, for the tests of evaluation."""

import torch
from evaluation_runs import photo
from torch import nn

from smoothsr.evaluation.conditions import parse
from smoothsr.evaluation.records import Image, Setting
from smoothsr.evaluation.study import Study

__all__ = ["BARE", "SCALE", "SMOOTHED", "network", "picture", "study_in"]

SCALE = 2
BARE, SMOOTHED = Setting(0.0), Setting(0.1, 3)


def network(weight=0.9, scale=SCALE):
    layer = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        layer.weight.copy_(weight * torch.eye(3)[..., None, None])
        layer.bias.fill_(0.05)
    return (
        nn.Sequential(layer, nn.Upsample(scale_factor=scale, mode="nearest"))
        .eval()
        .requires_grad_(False)
    )


def picture():
    return Image("photo", photo(1, 16, 18), photo(2, 16 * SCALE, 18 * SCALE))


def study_in(folder):
    texts = ["none", "noise:0.2"]
    return Study(
        folder,
        {"net": network()},
        [BARE, SMOOTHED],
        [parse(text) for text in texts],
        ["psnr_y", "mse"],
    )

"""A training run that may be cut off at any time, and what a recipe's command line has in common
with the others'.
"""

import argparse
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = ["Run", "Unit", "add_options", "half_cosine", "length_of", "open_image", "write"]

Unit = Literal["minutes", "steps"]


@dataclass
class Run:
    """The network and how far it is trained: what a run that was cut off goes on from."""

    model: nn.Module
    optimizer: torch.optim.Adam
    state: Path
    step: int = 0
    seconds: float = 0.0  # of training alone

    @classmethod
    def begin(cls, model: nn.Module, state: Path) -> "Run":
        """Start anew, or from the state of a run that was cut off."""
        run = cls(model, torch.optim.Adam(model.parameters()), state)
        if state.exists():
            saved = torch.load(state, weights_only=True)
            model.load_state_dict(saved["model"])
            run.optimizer.load_state_dict(saved["optimizer"])
            run.step, run.seconds = saved["step"], saved["trained"]
        return run

    def save(self) -> None:
        """Write the state, whole or not at all."""
        saved = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        part = self.state.with_suffix(".part")
        torch.save({**saved, "step": self.step, "trained": self.seconds}, part)
        os.replace(part, self.state)

    def done(self, unit: Unit) -> float:
        """How long it was trained, in minutes or steps."""
        return self.step if unit == "steps" else self.seconds / 60

    def learn(self, loss: Tensor, rate: float, clip: float) -> float:
        """Take one step of Adam, its rate rising over the first 200; return the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / 200)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def train(
        self, end: float, unit: Unit, step: Callable[[], float], scores: Callable[[], str]
    ) -> None:
        """Take steps until the end; save and print once a minute and at the end.

        Args:
            end: When, in `unit`.
            unit: Minutes of training, or steps.
            step: Takes one, by `learn`, and returns its loss.
            scores: Tells in words how good the network is.
        """
        running, saved_at, clock = 0.0, self.seconds, time.monotonic()
        while self.done(unit) < end:
            loss = step()
            running = 0.99 * running + 0.01 * loss if self.step > 1 else loss
            self.seconds += time.monotonic() - clock
            clock = time.monotonic()
            if self.seconds - saved_at > 60 or self.done(unit) >= end:
                saved_at = self.seconds
                self.save()
                place = f"{self.seconds / 60:5.1f} min  step {self.step}  loss {running:.5f}"
                print(f"{place}  {scores()}", flush=True)
                clock = time.monotonic()


def add_options(parser: argparse.ArgumentParser, minutes: float) -> None:
    """Add what every recipe is told: where to write, how long to train (by default so many
    minutes), and where photographs and Set5 are.
    """
    add = parser.add_argument
    add("--out", type=Path, required=True)
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes", type=float, default=minutes, help=f"how long to train (default {minutes:g})"
    )
    length.add_argument("--steps", type=int, help="how many steps to train instead")
    add("--photos", type=Path, default=Path("photos"), help="where the packages are kept")
    data = os.environ.get("SMOOTHSR_DATA")
    add("--data", type=Path, default=data, help="folder with images/Set5, for scores")


def length_of(args: argparse.Namespace) -> tuple[float, Unit]:
    """How long a run is told to be, and in which unit."""
    return (args.minutes, "minutes") if args.steps is None else (args.steps, "steps")


def half_cosine(share: float) -> float:
    """Fall from 1 to 0 over a share 0 to 1 of a run."""
    return 0.5 + 0.5 * math.cos(math.pi * share)


def open_image(path: Path) -> Tensor:
    """Read (1,3,h,w) in [0, 1]."""
    with Image.open(path) as file:
        return torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)[None] / 255


def write(
    out: Path, run: Run, metadata: dict[str, str], dtype: torch.dtype = torch.float32
) -> None:
    """Write the weights, with what they are and how they were made."""
    weights = {key: value.to(dtype).contiguous() for key, value in run.model.state_dict().items()}
    part = out.with_suffix(".part")
    save_file(weights, part, {**metadata, "steps": str(run.step), "license": "Apache-2.0"})
    os.replace(part, out)
    print(f"wrote {out}: {metadata['scores']}")

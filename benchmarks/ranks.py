"""What do two processes of one thread each bring over one: for images, tiles and draws?

    python benchmarks/ranks.py [--repeat 5] [--size 48] [--n-cert 1000] [--batch-size 32]

Images: `upscale` of a folder. Tiles: the certificate of a picture in tiles 8/2. Draws: the
certificate of a picture as one tile. Runs by one process and by two take turns. Seconds are from
the start signal to the last process's end, joining and the parts' removal included. On a machine
that others use, a core is not always there to be had: so the processor's seconds are compared too,
which tell what two quiet cores would give: those of one process over those of the busier one of
two. The batch size is fixed, since processes that find out the fastest may find different ones.

With `--arithmetic PICTURES RANKS` it says how long so many certificates in tiles would take on so
many processes of this kind, each of which certifies pictures of its own.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from smoothsr import SmoothedSR, adapters
from smoothsr.cli import main as smoothsr
from smoothsr.cli.devices import find_device
from smoothsr.files import images
from smoothsr.files.images import Picture
from smoothsr.files.parts import NotLastError, Parts

PICTURES = 12
MODES = ("images", "tiles", "draws")


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--size", type=int, default=48, help="side of the pictures (48)")
    parser.add_argument("--n-cert", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32, help="draws at once (32)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--device", default="cpu", help="cuda takes two GPUs")
    parser.add_argument("--model", default="builtin")
    parser.add_argument(
        "--arithmetic", type=int, nargs=2, metavar=("PICTURES", "RANKS"), default=(50_000, 64)
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Processes(args, Path(folder)) as both:
        tiles = list[tuple[float, float]]()
        for mode in args.modes:
            both.run(mode, 1), both.run(mode, 2)  # what is only done once is done
            found = [(both.run(mode, 1), both.run(mode, 2)) for _ in range(args.repeat)]
            report(mode, found)
            if mode == "tiles":
                tiles = [one for one, _ in found]
    if tiles:
        estimate(args, tiles)


def estimate(args: argparse.Namespace, tiles: list[tuple[float, float]]) -> None:
    """Print how long many certificates would take on many processes."""
    pictures, ranks = args.arithmetic
    for spent, name in zip(
        zip(*tiles, strict=True), ("seconds", "processor's seconds"), strict=True
    ):
        alone = statistics.median(spent)
        print(
            f"A certificate of {args.size}x{args.size} pixels, tiles 8/2, n={args.n_cert}, takes "
            f"{alone:.2f} {name} on {args.device}. {pictures} on {ranks} such processes: "
            f"{pictures} x {alone:.2f} s / {ranks} = {pictures * alone / ranks / 3600:.1f} h"
        )


def report(mode: str, found: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
    """Print the ratios of one mode, of pairs of (seconds, processor's seconds)."""
    texts = []
    for place, name in enumerate(("throughput", "by the processor's seconds")):
        ratios = [one[place] / two[place] for one, two in found]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        texts.append(f"{name} {statistics.median(ratios):.2f} ({spread})")
    seconds = statistics.median(one[0] for one, _ in found)
    print(
        f"{mode:6}  two over one: {', '.join(texts)}; one takes {seconds:.1f} s; "
        f"load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


class Processes:
    """Two processes of one thread, which are started once and then told what to do."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.folder, self.count = folder, 0
        write_pictures(folder / "in", args.size)
        context = multiprocessing.get_context("spawn")
        self.together = context.Barrier(2)  # kept, since its system's semaphores end with it
        self.ends: list[Connection] = []
        self.processes = []
        for index in range(2):
            ours, theirs = context.Pipe()
            self.ends.append(ours)
            process = context.Process(
                target=work, args=(theirs, args, folder, index, self.together), daemon=True
            )
            process.start()
            self.processes.append(process)

    def __enter__(self) -> "Processes":
        """Wait until both are ready."""
        for end in self.ends:
            end.recv()
        return self

    def __exit__(self, *_: object) -> None:
        """End both."""
        for end, process in zip(self.ends, self.processes, strict=True):
            end.send(None)
            process.join()

    def run(self, mode: str, ranks: int) -> tuple[float, float]:
        """Let the first of them, or both, do a whole work; return the seconds that it took, and
        the processor's seconds of the busier process.
        """
        self.count += 1
        start = time.perf_counter()
        for rank, end in enumerate(self.ends[:ranks]):
            end.send((mode, self.folder / str(self.count), rank, ranks))
        spent = [end.recv() for end in self.ends[:ranks]]
        return time.perf_counter() - start, max(spent)


def write_pictures(folder: Path, side: int) -> None:
    """Write random pictures."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for index in range(PICTURES):
        pixels = torch.rand(1, 3, side, side, generator=generator)
        images.write(folder / f"{index}.png", Picture(pixels))


def work(
    connection: Connection,
    args: argparse.Namespace,
    folder: Path,
    index: int,
    together: Barrier,
) -> None:
    """Do what comes, until nothing comes."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(index)
    device = find_device(args.device)
    model = adapters.load(args.model, device=device).model
    lr = images.read(folder / "in" / "0.png").pixels.to(device)
    smoothers = {
        "tiles": SmoothedSR(model, 0.05, 21, "mean", tile=8, halo=2, batch_size=args.batch_size),
        "draws": SmoothedSR(model, 0.05, 21, "mean", batch_size=args.batch_size),
    }

    def certify(mode: str, parts: Parts) -> None:
        with contextlib.suppress(NotLastError):
            smoothers[mode].certify(lr, n=args.n_cert, kind="both", parts=parts)
            parts.remove()  # as the command does

    def upscale(parts: Parts) -> None:
        os.environ.update(RANK=str(parts.rank), WORLD_SIZE=str(parts.ranks))
        command = ["upscale", folder / "in", "-o", parts.folder, "-m", args.model]
        command += ["--batch-size", args.batch_size, "--device", args.device]
        with contextlib.redirect_stdout(io.StringIO()):
            if smoothsr([str(word) for word in command]):
                raise RuntimeError("upscale failed")

    connection.send("ready")
    while task := connection.recv():
        mode, place, rank, ranks = task
        wait = (lambda _: together.wait()) if ranks > 1 else None
        parts, start = Parts(place, rank, ranks, wait), time.process_time()
        upscale(parts) if mode == "images" else certify(mode, parts)
        connection.send(time.process_time() - start)


if __name__ == "__main__":
    main()

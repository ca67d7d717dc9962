"""What a network ran and how long that took, as text."""

from collections import defaultdict

from smoothsr.engine.passes import Passes

__all__ = ["passes_text"]


def passes_text(passes: Passes) -> str:
    """Format a table of passes by the size of their patches, then what they are of the floor, and
    of the time.
    """
    lines = ["| patches | passes | batches | most in batches of |", "|---|---|---|---|"]
    by_patch = defaultdict[str, dict[int, int]](dict)
    for (height, width, size), batches in passes.batches.items():
        by_patch[f"{width}x{height}"][size] = batches
    for patch, found in by_patch.items():
        count = {size: size * batches for size, batches in found.items()}
        usual = max(count, key=count.__getitem__)
        total = sum(count.values())
        lines.append(f"| {patch} | {total} | {sum(found.values())} | {usual} ({count[usual]}) |")
    beyond = passes.count - passes.draws
    lines += [
        "",
        f"{passes.count} forward passes: {passes.draws} for the draws, which are the floor (of "
        f"every tile as many as asked for), and {beyond} beyond it (trials, the output without "
        "noise).",
        _seconds(passes),
    ]
    return "\n".join(lines)


def _seconds(passes: Passes) -> str:
    """Tell the seconds of drawing, and of what the network did beside."""
    rest = passes.drawing - passes.network_drawing
    share = 100 * rest / passes.drawing if passes.drawing else 0.0
    threads = passes.threads
    each = f", in {threads} threads side by side, each of them on average" if threads > 1 else ""
    return (
        f"Drawing took {passes.drawing:.2f} s{each}: {passes.network_drawing:.2f} s in the network "
        f"and {rest:.2f} s, {share:.1f}%, in everything else (a denoiser too). Passes beyond the "
        f"draws took {passes.network - passes.network_drawing:.2f} s."
    )

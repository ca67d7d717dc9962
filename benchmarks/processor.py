"""What of this machine's processor a page of figures has to tell."""

from pathlib import Path

__all__ = ["bfloat16_units"]

UNITS = ("amx_bf16", "avx512_bf16")


def bfloat16_units() -> str:
    """Name the processor's instructions for bfloat16, as far as the system tells."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return "unknown whether it has bfloat16 of its own"
    has = [name for name in UNITS if name in flags]
    return f"bfloat16 by {' and '.join(has)}" if has else "no bfloat16 of its own"

"""Attacks: small changes of the input that move a super-resolution network's output as far as they
can.
"""

from smoothsr.attacks.gradient import bim, cw, fgsm, l2_budget, pgd, strongest, worst

__all__ = ["bim", "cw", "fgsm", "l2_budget", "pgd", "strongest", "worst"]

"""Attacks: small changes of the input that move a super-resolution network's output as far as they
can.

Each attack is one function. It takes any differentiable callable from images to images and returns
the changed input. A random callable, such as a smoothed network that draws fresh noise at every
call, is attacked by expectation over transformation: `draws` evaluations a step, and the gradient
of the mean of their losses. Every image of a batch is attacked as if it were alone.

    budget              norms and projections: what an attacker may change
    objective           the loss that he drives up, its slope, and the best of several changes
    projected_gradient  fgsm, bim, pgd
    carlini_wagner      cw
    eigenvector         the direction in which noise moves a smoothed output most
    views               how he sees a smoothed network, with noise of his own
    whole_steps         changes as a file of 8 bits holds them
    selection           strongest: the worst of a set of attacks
    gradient_memory     what gradients of a smoothed network keep in memory

References: I. Goodfellow et al., ICLR 2015 (FGSM); A. Kurakin et al., ICLR 2017 workshop (BIM); A.
Madry et al., ICLR 2018 (PGD); N. Carlini, D. Wagner, S&P 2017 (CW); F. Croce, M. Hein, ICML 2020
(Auto-PGD's momentum); A. Athalye et al., ICML 2018 (expectation over transformation).
"""

from smoothsr.attacks.budget import l2_budget
from smoothsr.attacks.carlini_wagner import cw
from smoothsr.attacks.eigenvector import leading_change
from smoothsr.attacks.projected_gradient import bim, fgsm, pgd
from smoothsr.attacks.selection import strongest, worst

__all__ = ["bim", "cw", "fgsm", "l2_budget", "leading_change", "pgd", "strongest", "worst"]

"""Making networks better under smoothing.

Everything here is an objective, a function of (model, lr, hr) that takes the place of
`criterion(model(lr), hr)` in anyone's training loop, or a hook.

    objective    what an objective is, and its noise
    noise        Gaussian noise on the input, as a hook
    smoothed     the loss of the smoothed output
    consistency  how much outputs differ between draws
    adversarial  inputs that an attack made
    penalty      the loss's gradient at the input
    losses       base losses by name, which the others judge an output by
    gan          the one that learns: a discriminator
"""

from smoothsr.training.adversarial import AdversarialAugmentation, AdversarialLoss
from smoothsr.training.consistency import ConsistencyPenalty
from smoothsr.training.noise import NoiseAugmentation
from smoothsr.training.objective import StepSeed
from smoothsr.training.penalty import GradientPenalty
from smoothsr.training.smoothed import SmoothedLoss

__all__ = [
    "AdversarialAugmentation",
    "AdversarialLoss",
    "ConsistencyPenalty",
    "GradientPenalty",
    "NoiseAugmentation",
    "SmoothedLoss",
    "StepSeed",
]

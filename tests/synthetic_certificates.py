"""A certificate made of random bounds, and what follows from it by the definitions, apart from the
module's own arithmetic.
"""

import dataclasses

import numpy as np

from smoothsr.certificates.certificate import Certificate

__all__ = ["ALPHA", "FRESH", "SCALE", "SIGMA", "Z", "at", "db", "error", "made", "steps", "trivial"]
SIGMA, ALPHA, SCALE = 0.1, 0.01, 2
Z = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
FRESH = ("served", "ideal")


def made(seed=0, channels=3, sides=(4, 5), tile=2, halo=1, **changes):
    """A certificate with bounds that widen at random; scale 2."""
    generator = np.random.default_rng(seed)
    shape = (channels, SCALE * sides[0], SCALE * sides[1])
    sr = generator.integers(40, 215, (1, *shape))
    above, below = (
        np.cumsum(generator.integers(0, 12, (len(Z), *shape)), axis=0) for _ in range(2)
    )
    fields = {
        "sr_bytes": sr.astype(np.uint8),
        "z": Z,
        "upper": (sr + above).clip(0, 255).astype(np.uint8),
        "lower": (sr - below).clip(0, 255).astype(np.uint8),
        "mean": np.empty(0, np.float32),
        "spectrum": None,
        "kind": "levels",
        "lr_shape": (channels, *sides),
        "sigma": SIGMA,
        "agg": "median",
        "n_serve": 21,
        "antithetic": False,
        "n_cert": 1000,
        "alpha": ALPHA,
        "level_count": len(Z),
        "scope": "image",
        "tile": tile,
        "halo": halo,
        "halo_noise": 1.0,
        "seeded": False,
        "void": False,
        "lattice": False,
        "dtype": "float32",
        "input_digest": "0" * 64,
        "weights_digest": "1" * 64,
    }
    return Certificate(**{**fields, **changes})


def trivial():
    whole = made()
    nothing = np.empty((0, *whole.upper.shape[1:]), np.uint8)
    return dataclasses.replace(whole, z=np.empty(0), upper=nothing, lower=nothing)


def at(certificate, shift):
    """(lower, upper) in 8-bit steps at a shift in units of z, by the definition: rounded up to a
    level, else the whole range.
    """
    above = np.flatnonzero(certificate.z >= shift - 1e-12)
    if not above.size:
        shape = certificate.upper.shape[1:]
        return np.zeros(shape), np.full(shape, 255.0)
    return certificate.lower[above[0]].astype(float), certificate.upper[above[0]].astype(float)


def error(certificate, shift, y):
    """Largest squared error of each value at a shift, in [0, 1] units."""
    lower, upper = at(certificate, shift)
    return np.maximum((upper - y) ** 2, (y - lower) ** 2) / 255**2


def db(mse):
    return -10 * np.log10(mse)


def steps(image):
    return image[0].double().numpy() * 255

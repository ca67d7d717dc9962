"""Attacks: small changes of the input that move a super-resolution network's output as far as they
can.

Each attack takes any differentiable callable from images to images and returns the changed input. A
random callable, such as a smoothed network that draws fresh noise at every call, is attacked by
expectation over transformation: `draws` evaluations a step, and the gradient of the mean of their
losses. Every image of a batch is attacked as if it were alone.

References: I. Goodfellow et al., ICLR 2015 (FGSM); A. Kurakin et al., ICLR 2017 workshop (BIM); A.
Madry et al., ICLR 2018 (PGD); N. Carlini, D. Wagner, S&P 2017 (CW); F. Croce, M. Hein, ICML 2020
(Auto-PGD's momentum); A. Athalye et al., ICML 2018 (expectation over transformation).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.linalg import vector_norm

__all__ = ["bim", "cw", "fgsm", "l2_budget", "pgd", "strongest", "worst"]

JUDGED = 4  # times as many draws decide at the end as make up a step
Model = Callable[[Tensor], Tensor]
Loss = Literal["l1", "l2"] | Callable[[Tensor, Tensor], Tensor]
Norm = Literal["l2", "linf"]
PerImage = float | Tensor  # one number for all images, or (B,)
Gain = Callable[
    [Tensor], Tensor
]  # a change (B,C,h,w) of the input -> how good it is for the attacker, (B,1,1,1)


def l2_budget(rms: float, lr: Tensor) -> float:
    """Compute the l2 budget that allows an image of lr's size a root mean square change of rms:
    sqrt(C*h*w) * rms.
    """
    return rms * math.sqrt(lr[0].numel())


def fgsm(
    model: Model,
    lr: Tensor,
    reference: Tensor | None = None,
    *,
    eps: PerImage,
    norm: Norm = "linf",
    loss: Loss = "l2",
    target: Tensor | None = None,
    draws: int = 1,
    seed: int = 0,
) -> Tensor:
    """Attack by one gradient step to the border of the budget: `bim` with steps=1."""
    return bim(
        model,
        lr,
        reference,
        eps=eps,
        norm=norm,
        loss=loss,
        target=target,
        draws=draws,
        seed=seed,
        steps=1,
    )


def bim(
    model: Model,
    lr: Tensor,
    reference: Tensor | None = None,
    *,
    eps: PerImage,
    norm: Norm = "linf",
    loss: Loss = "l2",
    target: Tensor | None = None,
    draws: int = 1,
    seed: int = 0,
    steps: int = 40,
    step_size: PerImage | None = None,
) -> Tensor:
    """Attack by projected gradient ascent that starts at lr: `pgd` with random_start=False."""
    return pgd(
        model,
        lr,
        reference,
        eps=eps,
        norm=norm,
        loss=loss,
        target=target,
        draws=draws,
        seed=seed,
        steps=steps,
        step_size=step_size,
        random_start=False,
    )


@torch.no_grad()
def pgd(
    model: Model,
    lr: Tensor,
    reference: Tensor | None = None,
    *,
    eps: PerImage,
    norm: Norm = "linf",
    loss: Loss = "l2",
    target: Tensor | None = None,
    draws: int = 1,
    seed: int = 0,
    steps: int = 40,
    step_size: PerImage | None = None,
    restarts: int = 1,
    random_start: bool = True,
) -> Tensor:
    """Attack by projected gradient ascent.

    Args:
        model: Maps (B,C,h,w) to (B,C,H,W), differentiably. Neither its mode nor its parameters'
            gradients change.
        lr: (B,C,h,w) in [0, 1].
        reference: What the output is driven away from, (B,C,H,W), such as the ground truth; None
            means the output for lr.
        eps: Budget in units of lr, for one image over all its values: a number such as 8/255, or
            (B,).
        norm: The norm in which the budget counts.
        loss: "l2" or "l1", the norm of output - reference, or a function of (output, reference)
            that returns (B,).
        target: What the output is driven towards instead, (B,C,H,W).
        draws: Evaluations of the model a step, whose losses are averaged. One will do for a model
            that isn't random.
        seed: Fixes the random starts, which are the same for every image of a batch.
        steps: Gradient steps a restart.
        step_size: Length of every step in `norm`, a number or (B,). None shrinks it from 2*eps to 0
            and adds Auto-PGD's momentum: large steps find the direction, small ones settle, and
            gradients that zigzag or are random average out.
        restarts: How many random starts.
        random_start: Start on the budget's border. False starts once, at lr, unless the loss is 0
            and so flat there.

    Returns:
        Each image's best iterate: in [0, 1], of lr's dtype and device, within eps of lr exactly,
        also after rounding to that dtype.

    Raises:
        ValueError: If an argument is out of its range, shapes don't fit, or the output carries no
            gradient.

    Example:
        >>> grey, black = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, 1, 8, 8)
        >>> f"{pgd(lambda x: x**2, grey, black, eps=0.1).min():.4f}"
        '0.6000'
    """
    room = _room(lr, eps, norm)
    gain = _gain(model, lr, reference, target, loss, draws)
    starts = _random_changes(lr, room, norm, restarts, seed)
    before = torch.zeros_like(lr)

    def step(t: int, delta: Tensor, gradient: Tensor) -> Tensor:
        size = (
            2 * room * (1 - t / steps)
            if step_size is None
            else _per_image("step_size", step_size, lr)
        )
        moved = _clip(lr, _project(delta + size * _normalise(gradient, norm), room, norm))
        if step_size is None and t:
            moved = _clip(
                lr, _project(delta + 0.75 * (moved - delta) + 0.25 * (delta - before), room, norm)
            )
        before.copy_(delta)
        return moved

    return lr + _best_iterate(
        gain, starts if random_start else [_unless_flat(gain, starts[0])], step, steps, draws
    )


@torch.no_grad()
def cw(
    model: Model,
    lr: Tensor,
    reference: Tensor | None = None,
    *,
    eps: PerImage | None = None,
    norm: Norm = "linf",
    loss: Loss = "l2",
    target: Tensor | None = None,
    draws: int = 1,
    seed: int = 0,
    steps: int = 100,
    step_size: PerImage | None = None,
    c: float = 100.0,
) -> Tensor:
    """Attack by minimising ||delta||_2 - c*loss with Adam: the regression form of Carlini and
    Wagner's attack.

    With the loss "l2" a change pays as soon as the network amplifies it by more than 1/c. It starts
    where `bim` does, keeps each image's least objective, and takes, returns and raises what `pgd`
    does, but for eps: every iterate is projected into it before it is judged, and None leaves the
    size of the change to c; and step_size, Adam's, in units of one value of lr: None shrinks it to
    0, linearly, from the root mean square change that fills the budget, or from .01 without one.
    """
    largest = l2_budget(1, lr) if norm == "l2" else 1.0  # no change within [0, 1] is larger
    room = _room(lr, largest if eps is None else eps, norm)
    first = torch.full_like(room, 0.01) if eps is None else room / largest
    deviation = _gain(model, lr, reference, target, loss, draws)
    start = _unless_flat(deviation, _random_changes(lr, first * largest, norm, 1, seed)[0])
    mean, square = torch.zeros_like(lr), torch.zeros_like(lr)

    def gain(delta: Tensor) -> Tensor:
        delta = _project(delta, room, norm)
        return c * deviation(delta) - _length(delta)

    def adam(t: int, delta: Tensor, gradient: Tensor) -> Tensor:
        mean.lerp_(gradient, 0.1)
        square.lerp_(gradient.square(), 0.001)
        direction = mean / (1 - 0.9 ** (t + 1)) / ((square / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
        size = (
            first * (1 - t / steps) if step_size is None else _per_image("step_size", step_size, lr)
        )
        moved = delta + size * direction
        # Adam scales each value by itself, which leads astray along a sphere: there it runs free,
        # and `gain` projects.
        return _clip(lr, _project(moved, room, norm) if norm == "linf" else moved)

    return lr + _project(_best_iterate(gain, [start], adam, steps, draws), room, norm)


@torch.no_grad()
def strongest(
    model: Model,
    lr: Tensor,
    reference: Tensor | None = None,
    *,
    eps: PerImage,
    norm: Norm = "linf",
    loss: Loss = "l2",
    target: Tensor | None = None,
    draws: int = 1,
    seed: int = 0,
    attacks: Sequence[Callable[..., Tensor]] = (fgsm, bim, pgd, cw),
    transfer_from: Model | Sequence[Model] = (),
    evaluations: int = 8,
) -> Tensor:
    """Run a set of attacks, and keep for each image the result that is worst for model: `worst` of
    all of them and of lr.

    The attacks are functions such as `functools.partial(pgd, steps=100, restarts=5)`. They run on
    model, with `draws` evaluations a step, and on each of transfer_from, with one, in the hope that
    the result harms model too: the bare network of a smoothed one, or its mean in place of its
    median. Without reference, those are driven away from their own output. Takes, returns and
    raises what `pgd` does.
    """
    options: dict[str, Any] = {"eps": eps, "norm": norm, "loss": loss, "target": target}
    others = [transfer_from] if callable(transfer_from) else transfer_from
    results = [lr]
    for number, attack in enumerate(attacks):  # a seed each: bim without reference would repeat pgd
        results.append(attack(model, lr, reference, draws=draws, seed=seed + number, **options))
        results += [attack(other, lr, reference, seed=seed + number, **options) for other in others]
    return worst(model, lr, results, reference, loss=loss, target=target, evaluations=evaluations)


@torch.no_grad()
def worst(
    model: Model,
    lr: Tensor,
    results: Sequence[Tensor],
    reference: Tensor | None = None,
    *,
    loss: Loss = "l2",
    target: Tensor | None = None,
    evaluations: int = 8,
) -> Tensor:
    """Choose, for each image of lr, the one of several attacks' results (B,C,h,w) that harms model
    most.

    The harm is the mean loss of `evaluations` outputs, since model may be random. The other
    arguments are those of `pgd`.
    """
    gain = _gain(model, lr, reference, target, loss, evaluations)
    harm = torch.stack([_mean(gain, result - lr, evaluations) for result in results])
    return torch.stack(list(results))[
        harm.argmax(0).flatten(), torch.arange(len(lr), device=lr.device)
    ]


def _normalise(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the steepest direction of length 1 in norm."""
    return (
        gradient.sign()
        if norm == "linf"
        else gradient / _length(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
    )


def _clip(lr: Tensor, delta: Tensor) -> Tensor:
    """Return the nearest change that keeps lr + delta in [0, 1]; no value's change grows, so it
    stays within the budget.
    """
    return delta.clamp(-lr, 1 - lr)


def _project(delta: Tensor, room: Tensor, norm: Norm) -> Tensor:
    """Return the nearest change within the budget."""
    return (
        delta.clamp(-room, room)
        if norm == "linf"
        else delta * (room / _length(delta).clamp_min(room))
    )


def _best_iterate(
    gain: Gain, starts: Sequence[Tensor], step: Callable[..., Tensor], steps: int, draws: int
) -> Tensor:
    """Return each image's best change on the paths from starts, ends included, along which step(t,
    delta, gradient) leads.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    kept = list[Tensor]()
    for start in starts:
        delta = best = start
        most = torch.full_like(_length(start), -torch.inf)
        for t in range(steps):
            value, gradient = _slope(gain, delta, draws)
            best, most = torch.where(value > most, delta, best), torch.maximum(value, most)
            delta = step(t, delta, gradient)
        # A random model's best value may be luck, most of all where its noise is spiky: the last
        # iterate stands against it.
        kept += [best, delta]
    harm = torch.stack([_mean(gain, delta, JUDGED * draws) for delta in kept]).nan_to_num(
        -torch.inf
    )
    best = torch.stack(kept)[
        harm.argmax(0).flatten(), torch.arange(len(harm[0]), device=harm.device)
    ]
    return best


@torch.enable_grad()
def _slope(gain: Gain, delta: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Return the mean gain over draws and its gradient, with the graph of one draw in memory at a
    time.
    """
    delta = delta.detach().requires_grad_()
    values, slopes = list[Tensor](), list[Tensor]()
    for _ in range(draws):
        value = gain(delta)
        slope = (
            torch.autograd.grad(value.sum(), delta, allow_unused=True)[0]
            if value.requires_grad
            else None
        )
        if slope is None:
            raise ValueError(
                "the output carries no gradient to the input: does the model detach it, or "
                "run under no_grad?"
            )
        values.append(value.detach())
        slopes.append(slope)
    return torch.stack(values).mean(0), torch.stack(slopes).mean(0)


def _mean(function: Callable[[Tensor], Tensor], argument: Tensor, draws: int) -> Tensor:
    """Return the mean over draws of a function that may be random."""
    return torch.stack([function(argument) for _ in range(draws)]).mean(0)


def _gain(
    model: Model,
    lr: Tensor,
    reference: Tensor | None,
    target: Tensor | None,
    loss: Loss,
    draws: int,
) -> Gain:
    """Return the loss as a function of the change, or its negative where there is a target:
    (B,C,h,w) -> (B,1,1,1).
    """
    if draws < 1:
        raise ValueError(f"draws and evaluations must be at least 1, got {draws}")
    if reference is not None and target is not None:
        raise ValueError(
            "pass a reference to drive the output away from, or a target to drive it "
            "towards, not both"
        )
    if not callable(loss) and loss not in ("l1", "l2"):
        raise ValueError(f'loss must be "l1", "l2" or a function, got {loss!r}')
    goal = target if reference is None else reference
    goal = _mean(model, lr, draws) if goal is None else goal

    def gain(delta: Tensor) -> Tensor:
        output = model(lr + delta)
        if output.shape != goal.shape:
            raise ValueError(
                f"reference and target must have the output's shape {(*output.shape,)}, got "
                f"{(*goal.shape,)}"
            )
        wide = torch.promote_types(
            output.dtype, torch.float32
        )  # half precision can't hold the l1 norm of a large image
        value = (
            loss(output, goal)
            if callable(loss)
            else vector_norm(output - goal, int(loss[1]), (1, 2, 3), dtype=wide)
        )
        if value.shape != lr.shape[:1]:
            raise ValueError(
                f"loss must return one value for each of {len(lr)} images, got shape "
                f"{(*value.shape,)}"
            )
        return (value if target is None else -value).view(-1, 1, 1, 1)

    return gain


def _room(lr: Tensor, eps: PerImage, norm: Norm) -> Tensor:
    """Return the budget as (B,1,1,1), less all that rounding lr + delta to lr's dtype can add to
    the norm of a change.
    """
    if lr.ndim != 4 or not lr.is_floating_point() or not (lr.min() >= 0 and lr.max() <= 1):
        raise ValueError(
            f"lr must be (B,C,h,w), floating-point and in [0, 1], got {(*lr.shape,)} of {lr.dtype}"
        )
    if norm not in ("l2", "linf"):
        raise ValueError(f'norm must be "l2" or "linf", got {norm!r}')
    unit = torch.finfo(lr.dtype).eps  # a number up to 1 is rounded by unit / 4 at most
    room = _per_image("eps", eps, lr) * (1 - 4 * unit) - unit / 4 * (
        l2_budget(1, lr) if norm == "l2" else 1
    )
    if (room <= 0).any():
        raise ValueError(
            f"eps must be greater than what rounding to {lr.dtype} can change, got {eps}"
        )
    return room


def _per_image(name: str, number: PerImage, lr: Tensor) -> Tensor:
    """Return one number, or one for each image, as (B,1,1,1)."""
    numbers = torch.as_tensor(number, dtype=lr.dtype, device=lr.device)
    if numbers.shape not in ((), lr.shape[:1]) or not ((numbers > 0) & numbers.isfinite()).all():
        raise ValueError(
            f"{name} must be greater than 0 and finite, a number or one for each of "
            f"{len(lr)} images, got {number}"
        )
    return numbers.expand(len(lr)).view(-1, 1, 1, 1)


def _length(delta: Tensor) -> Tensor:
    """Return the l2 norm of each image, (B,1,1,1), summed in float64 where there is such: in
    float32 sums of millions drift.
    """
    exact = torch.float32 if delta.device.type == "mps" else torch.float64
    return vector_norm(delta, dim=(1, 2, 3), keepdim=True, dtype=exact).to(delta.dtype)


def _random_changes(lr: Tensor, room: Tensor, norm: Norm, count: int, seed: int) -> list[Tensor]:
    """Return changes (B,C,h,w) to random points of the budget's border, cut to [0, 1]; the same for
    all images.
    """
    if count < 1:
        raise ValueError(f"restarts must be at least 1, got {count}")
    generator = torch.Generator(lr.device).manual_seed(seed)
    noises = [
        torch.randn(lr[:1].shape, generator=generator, dtype=lr.dtype, device=lr.device)
        for _ in range(count)
    ]
    return [_clip(lr, _project(room * _normalise(noise, norm), room, norm)) for noise in noises]


def _unless_flat(gain: Gain, noise: Tensor) -> Tensor:
    """Return no change; or noise for images whose loss has no slope there, as where output and
    reference are equal.
    """
    _, slope = _slope(gain, torch.zeros_like(noise), 1)
    return torch.where(_length(slope) == 0, noise, 0)

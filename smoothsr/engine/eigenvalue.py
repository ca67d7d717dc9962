"""The largest eigenvalue of a matrix, bounded from above: estimated by Lanczos' method and then
proved by a Cholesky factorization.

References: G. Golub, C. Van Loan, "Matrix Computations", sections 4.2 and 10.1; N. Higham,
"Accuracy and Stability of Numerical Algorithms", section 10.1 (rounding errors).
"""

import torch
from torch import Tensor

__all__ = ["largest_eigenvalue"]

STEPS = 12  # of Lanczos' method
ALIGNED = 128  # columns of so many numbers, or a multiple, lie at the same place of a cache
SLACKS = (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)  # by which an estimate may be short, tried in turn


def largest_eigenvalue(matrix: Tensor) -> float:
    """Bound the largest eigenvalue of a symmetric positive semidefinite matrix from above.

    An estimate x is proved by factorizing x * identity - matrix, which succeeds for positive
    definite matrices alone; it is within a few thousandths of the truth.

    Args:
        matrix: (n,n), float64.

    Raises:
        ValueError: If the matrix is not finite.

    Example:
        >>> matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        >>> 3 <= largest_eigenvalue(matrix) <= 3.01
        True
    """
    if not bool(matrix.sum().isfinite()):
        raise ValueError("the matrix of second moments has NaN or infinite values")
    rounding = len(matrix) * torch.finfo(matrix.dtype).eps  # of a sum of so many terms, at most
    trace = float(matrix.diagonal().sum()) * (1 + rounding)
    with torch.autocast(matrix.device.type, enabled=False):
        estimate = min(_lanczos(matrix.float()), trace)
    if estimate <= 0:
        return max(trace, 0.0)
    for slack in SLACKS:
        bound = estimate * (1 + slack)
        if bound >= trace:
            break
        if _all_below(bound, matrix):
            # Higham, theorem 10.3: what is factorized is off by n (n + 1) units at most.
            return bound * (1 + (len(matrix) + 2) ** 2 * torch.finfo(matrix.dtype).eps)
    return trace


def _all_below(bound: float, matrix: Tensor) -> bool:
    """Whether bound * identity - matrix is positive definite, but for rounding errors."""
    count = len(matrix)
    # One row and column more, where columns would fall on each other in a processor's cache.
    size = count + (count % ALIGNED == 0)
    shifted = matrix.new_zeros(size, size)
    torch.neg(matrix, out=shifted[:count, :count])
    shifted.diagonal().add_(bound)
    return int(torch.linalg.cholesky_ex(shifted)[1]) == 0


def _lanczos(matrix: Tensor) -> float:
    """Estimate the largest eigenvalue from below, with full reorthogonalization."""
    vector = matrix[int(matrix.diagonal().argmax())]
    length = torch.linalg.vector_norm(vector)
    if length == 0:
        return 0.0
    steps = min(STEPS, len(matrix))
    basis = matrix.new_zeros((steps, len(matrix)))
    images = torch.zeros_like(basis)
    used = 0
    while used < steps and float(length) > 0:
        basis[used] = vector / length
        images[used] = matrix @ basis[used]
        used += 1
        vector = images[used - 1].clone()
        for _ in range(2):
            vector -= basis[:used].T @ (basis[:used] @ vector)
        length = torch.linalg.vector_norm(vector)
        length = torch.where(length > 1e-5 * torch.linalg.vector_norm(images[used - 1]), length, 0)
    small = (basis[:used] @ images[:used].T).double().cpu()
    return float(torch.linalg.eigvalsh((small + small.T) / 2)[-1])

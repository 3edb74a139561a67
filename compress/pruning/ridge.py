"""The regularisation of all least-squares fits of pruning."""

import torch

RIDGE = 1e-4  # of the mean variance: keeps the solution away from channels that repeat each other


def ridge(gram: torch.Tensor) -> torch.Tensor:
    """What is added to a matrix of second moments [n, n] before it is inverted, [n, n]."""
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return RIDGE * gram.diagonal().mean() * eye

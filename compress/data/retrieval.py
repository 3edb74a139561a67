"""Which photographs, and which patches of them, are most like an image: by embeddings.

First the most similar whole images, by CLIP; then the most similar patches of these, by a ResNet-34
[doc, Keldysh Institute preprint 2025-18]. Cosine similarity, and the lower index of equals, are our
choice [REC]. Any embedding serves: this module takes vectors. The query is the *small* image,
enlarged, never its original.
"""

from collections.abc import Sequence

import torch

LEAST_NORM = 1e-12


def cosine(query: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """Similarity in -1 to 1 of a vector [d] to each row of [n, d], [n]; 0 for a vector of zeros."""
    lengths = bank.norm(dim=1) * query.norm()
    return (bank @ query) / lengths.clamp_min(LEAST_NORM)


def most_similar(query: torch.Tensor, bank: torch.Tensor, count: int) -> list[int]:
    """Rows of `bank` [n, d] most like `query` [d], the best first; of equals the lower index."""
    order = cosine(query, bank).argsort(descending=True, stable=True)
    return order[:count].tolist()


def best_patches(
    query: torch.Tensor, patches: Sequence[torch.Tensor | None], images: Sequence[int], count: int
) -> list[tuple[int, int, float]]:
    """Patches of some images that are most like a patch.

    Args:
        query: The patch's embedding [d].
        patches: Embeddings [n, d] of the patches of every image; None for one without.
        images: Which images are looked at, such as those of `most_similar`.
        count: How many patches to give.

    Returns:
        (image, patch, similarity), the best first; of equals the lower image, then the lower patch.
    """
    found = []
    for image in sorted(images):
        bank = patches[image]
        if bank is None or not len(bank):
            continue
        for patch, similarity in enumerate(cosine(query, bank).tolist()):
            found.append((image, patch, similarity))
    found.sort(key=lambda entry: (-entry[2], entry[0], entry[1]))
    return found[:count]

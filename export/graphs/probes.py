"""Images that are hard in different ways, for parity and for rewrites that look at values."""

import torch

COLOUR = (0.55, 0.42, 0.30)  # of the flat image


def probes(lr_size: tuple[int, int], seed: int = 0) -> dict[str, torch.Tensor]:
    """Deterministic images: flat, dark, bright, textured.

    Texture is noise whose amplitude falls as 1/frequency, as in photographs, with edges over it.

    Args:
        lr_size: Height and width.
        seed: Of the noise.

    Returns:
        Name -> float32 [1, 3, h, w] in [0, 1].
    """
    height, width = lr_size
    generator = torch.Generator().manual_seed(seed)
    radius = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2).sqrt()
    white = torch.randn(1, 3, height, width, generator=generator)
    spectrum = torch.fft.rfft2(white) / radius.clamp(min=1 / width)
    noise = torch.fft.irfft2(spectrum, s=(height, width))
    noise = noise / noise.abs().amax()
    rows = torch.linspace(-1, 1, height)
    columns = torch.linspace(-1, 1, width)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    stripes = torch.where((x * 3 + y).sin() > 0.3, 0.2, -0.1)
    edges = stripes + torch.where(x**2 + y**2 < 0.3, 0.15, 0.0)
    colour = torch.tensor(COLOUR).view(1, 3, 1, 1)
    return {
        "flat": colour.expand(1, 3, height, width).clone(),
        "dark": (0.04 + 0.03 * noise).clamp(0, 1),
        "bright": (0.95 + 0.06 * noise).clamp(0, 1),
        "textured": (0.45 + 0.35 * noise + edges).clamp(0, 1),
    }

"""The metrics that are measured where none is named; importing it loads no library."""

BENCHMARK = (
    "psnr",
    "ssim",
    "lpips",
    "lpips-squeeze",
    "dists",
    "niqe",
    "musiq",
    "clipiqa",
    "maniqa-pipal",
)

"""Image quality by pyiqa, under the names and settings of the StableSR / OSEDiff benchmark.

PSNR and SSIM are taken on the luma of ITU-R BT.601 (ycbcr), without a cropped border; pyiqa's own
default (yiq) reads 1.32 dB lower. Every other metric has pyiqa's default settings; NIQE is computed
as eval/metric/niqe.py says.
"""

from dataclasses import dataclass

from eval.metric import builders, ntire
from eval.metric.attention_metrics import ahiq, topiq
from eval.metric.builders import Build, pyiqa_metric, single, with_backbone
from eval.metric.ssim import by_rows
from eval.metric.weight_files import Weight, known

LUMA = {"test_y_channel": True, "color_space": "ycbcr"}


@dataclass(frozen=True)
class Way:
    """One way to have a metric.

    Attributes:
        build: Makes the network.
        weights: The weight files that `build` takes, in its order.
    """

    build: Build
    weights: tuple[Weight, ...] = ()


@dataclass(frozen=True)
class Metric:
    """How one metric is had and read.

    Attributes:
        reference: Whether it compares with the original image.
        higher: Whether a higher score is better.
        ways: Ways to have it; the first whose files are at hand is taken.
        least: Shortest side in pixels that the implementation takes (measured).
        batch: Whether it takes several images of one size at once.
        features: Whether it gives a vector an image; the figure is the distance of two sets.
        of: Metrics of whose averages it is computed, instead of from images.
        edition: Changed when the values change without pyiqa or the weights doing so.
        by_name: Whether it is pyiqa's own, taken by its name, which may refuse an image.
    """

    reference: bool
    higher: bool
    ways: tuple[Way, ...] = ()
    least: int = 1
    batch: bool = True
    features: bool = False
    of: tuple[str, ...] = ()
    edition: str = ""
    by_name: bool = False

    @property
    def arrow(self) -> str:
        """The direction in which scores are better, as a sign."""
        return "↑" if self.higher else "↓"


def _way(build: Build, *weights: str) -> Way:
    return Way(build, tuple(known()[key] for key in weights))


METRICS: dict[str, Metric] = {
    # name             reference higher  ways
    "psnr": Metric(True, True, (_way(pyiqa_metric("psnr", **LUMA)),)),
    "ssim": Metric(True, True, (_way(by_rows("ssim", **LUMA)),)),
    "psnr-rgb": Metric(True, True, (_way(pyiqa_metric("psnr")),)),
    "ssim-rgb": Metric(True, True, (_way(by_rows("ssimc")),)),
    "lpips": Metric(True, False, (_way(with_backbone("lpips"), "alexnet", "lpips_alex"),)),
    "lpips-vgg": Metric(True, False, (_way(with_backbone("lpips-vgg"), "vgg16", "lpips_vgg"),)),
    "lpips-squeeze": Metric(
        True,
        False,
        (
            _way(builders.lpips_squeeze, "lpips_squeeze"),
            _way(builders.lpips_squeeze_parts, "squeezenet", "lpips_squeeze_heads"),
        ),
    ),
    "dists": Metric(True, False, (_way(with_backbone("dists"), "vgg16", "dists"),)),
    "niqe": Metric(False, False, (_way(builders.niqe, "niqe"),), least=96, edition="2"),
    "brisque": Metric(False, False, (_way(single("brisque"), "brisque"),)),
    "musiq": Metric(False, True, (_way(single("musiq"), "musiq"),)),
    "clipiqa": Metric(False, True, (_way(builders.clipiqa, "clip_rn50"),)),
    # Takes 20 crops of an image.
    "maniqa-pipal": Metric(False, True, (_way(builders.maniqa, "maniqa_pipal"),), batch=False),
    "fid": Metric(True, False, (_way(builders.inception, "inception"),), features=True),
    # Takes 20 crops of an image, too.
    "ahiq": Metric(
        True, True, (_way(ahiq, "ahiq", "timm_resnet50", "timm_vit_b8"),), least=224, batch=False
    ),
    "topiq_nr": Metric(False, True, (_way(topiq("topiq_nr"), "topiq_nr"),)),
    "topiq_fr": Metric(True, True, (_way(topiq("topiq_fr"), "topiq_fr"),)),
    "ntire-score": Metric(True, True, of=ntire.INGREDIENTS),
    "ntire-final": Metric(True, True, of=ntire.INGREDIENTS),
    "ms_ssim": Metric(True, True, (_way(by_rows("ms_ssim")),), least=164),
    "cw_ssim": Metric(True, True, (_way(pyiqa_metric("cw_ssim")),), least=64),
    "gmsd": Metric(True, False, (_way(pyiqa_metric("gmsd")),)),
    "nlpd": Metric(True, False, (_way(pyiqa_metric("nlpd")),)),
    "vif": Metric(True, True, (_way(builders.Vif),), least=33),
    "fsim": Metric(True, True, (_way(pyiqa_metric("fsim")),)),
    "vsi": Metric(True, True, (_way(pyiqa_metric("vsi")),)),
    "mad": Metric(True, False, (_way(pyiqa_metric("mad")),)),
}

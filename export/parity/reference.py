"""What torch computes of some images, which a runtime is compared with."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from compress.core.errors import UserError
from compress.model.sr_model import SRModel
from export.graphs.components import GRAPHS, corrected
from export.parity.probes import PHOTOGRAPH

Images = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One graph on one image, as torch computes it.

    Attributes:
        probe: The image's name.
        lr: The image, float32 [1, 3, h, w] in [0, 1].
        x: What reaches the graph, float32 [1, C, h, w].
        expected: What the graph gives.
        peak: 1 for images, the greatest magnitude for latents.
    """

    probe: str
    lr: torch.Tensor
    x: torch.Tensor
    expected: np.ndarray
    peak: float

    @property
    def is_photograph(self) -> bool:
        """Whether the image is one, and no probe."""
        return self.probe.startswith(PHOTOGRAPH)

    @property
    def is_of_one_colour(self) -> bool:
        """Whether all pixels of the image are the same."""
        return torch.equal(self.lr, self.lr[..., :1, :1].expand_as(self.lr))


class Reference:
    """What torch computes of some images: each part once, for all graphs that hold it.

    Args:
        model: It is set to evaluation.
        images: Name -> float32 [1, 3, h, w] in [0, 1].
    """

    def __init__(self, model: SRModel, images: Images):
        self.model = model.eval()
        self.images = images
        self._parts: dict[tuple[str, str], torch.Tensor] = {}

    def _once(self, part: str, probe: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        if (part, probe) not in self._parts:
            self._parts[part, probe] = compute()
        return self._parts[part, probe]

    def latent(self, probe: str) -> torch.Tensor:
        """What the encoder makes of an image."""
        return self._once("latent", probe, lambda: self.model.encoder(self.images[probe]))

    def clean_latent(self, probe: str) -> torch.Tensor:
        """What the decoder gets."""
        latent = self.latent(probe)
        return self._once("clean latent", probe, lambda: self.model.clean_latent(latent))

    def image(self, probe: str) -> torch.Tensor:
        """What the decoder makes of that, before any correction."""
        clean = self.clean_latent(probe)
        return self._once("image", probe, lambda: self.model.decoder(clean))

    def sr(self, probe: str) -> torch.Tensor:
        """What the graph of the whole model gives."""
        return corrected(self.model, self.image(probe), self.images[probe])

    def prediction(self, probe: str) -> torch.Tensor:
        """What the denoiser makes of the latent."""
        return GRAPHS["denoiser"].build(self.model)(self.latent(probe))

    @torch.no_grad()
    def cases(self, stem: str) -> list[Case]:
        """What torch gives for graph `stem` on each image.

        Raises:
            UserError: Something that is not finite.
        """
        graph = GRAPHS[stem]
        inputs = {
            "lr": self.images.__getitem__,
            "latent": self.latent,
            "clean_latent": self.clean_latent,
        }
        outputs = {
            "sr": self.sr,
            "latent": self.latent,
            "prediction": self.prediction,
            "image": self.image,
        }
        cases = []
        for probe, lr in self.images.items():
            expected = outputs[graph.output](probe).numpy()
            if not np.isfinite(expected).all():
                raise UserError(
                    f"{stem}: the torch model itself gives values that are not finite on the "
                    f"{probe} probe, so there is nothing to compare with; calibrate or train it "
                    "again"
                )
            peak = 1.0
            if graph.output not in ("sr", "image"):
                peak = float(np.abs(expected).max()) or 1.0
            cases.append(Case(probe, lr, inputs[graph.input](probe), expected, peak))
        return cases

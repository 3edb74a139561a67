"""A small model of many parts: what the mapping of components has to hold beyond three networks.

A preprocessor, a noise predictor, a control network at each of two steps with maps of two sizes,
and a reference, the second image. It is no published model.
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from compress.core.identity import files_key
from compress.core.tensors import read_tensors
from compress.model.calls import Call, Wiring, map_ratios
from compress.model.source import Source
from compress.model.sr_model import SRModel, Tiling
from compress.process.linear_steps import LinearSteps, Row
from compress.recipe.export_options import ExportOptions

EXPORT = ExportOptions(target="onnx", lr_size=(32, 32), images=4)
C = 8  # channels of latents and features
REFERENCE = (24, 32)  # height and width
WIRING = Wiring(
    (
        Call("preprocessor", ("lr",), ("clear_lr",)),
        Call("reference_encoder", ("reference",), ("features",)),
        Call("encoder", ("clear_lr",), ("latent",)),
        Call("noise_predictor", ("clear_lr",), ("noise",)),
        Call(
            "control",
            ("state", "timestep", "clear_lr"),
            ("control_high", "control_low"),
            each_step=True,
        ),
        Call(
            "denoiser",
            ("state", "timestep", "control_high", "control_low", "features"),
            ("prediction",),
            each_step=True,
        ),
        Call("decoder", ("clean_latent",), ("image",)),
    ),
    map_ratios(0.5, clear_lr=1.0, noise=0.5, control_high=0.5, control_low=0.25),
    {"reference": REFERENCE},
)
PROCESS = LinearSteps(
    {"latent": 1.0, "noise": 0.5},
    (
        Row(399, {"state": 0.6, "latent": 0.3, "prediction": -0.2}),
        Row(199, {"state": 0.9, "prediction": -0.3, "prediction_0": 0.1}),
    ),
    ("latent", "noise"),
)

PROCESS_OF_ONE = LinearSteps(PROCESS.start, PROCESS.rows[:1], PROCESS.inputs)


class Preprocessor(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return lr + 0.1 * self.conv(lr)


class Half(nn.Module):
    """An image -> a map of half its sides."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, C, 4, stride=2, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image)


class Enlarge(nn.Module):
    """A latent -> an image of eight times its sides."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(C, 192, 3, padding=1)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_shuffle(self.conv(latent), 8)


class ReferenceEncoder(nn.Module):
    """A photograph -> features [B, C], which are no map."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, C, 3, padding=1)

    def forward(self, reference: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(reference)).mean((2, 3))


class Timed(nn.Module):
    """A convolution of the state with a bias by the timestep."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, C, 3, padding=1)
        self.time = nn.Linear(1, C)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + self.time(timestep.float()[:, None] / 1000)[:, :, None, None]


class Control(nn.Module):
    """State, timestep and image -> maps in the size of the state and in half of it."""

    def __init__(self):
        super().__init__()
        self.hint = nn.Conv2d(3, C, 3, stride=2, padding=1)
        self.body = Timed(C)
        self.low = nn.Conv2d(C, C, 3, stride=2, padding=1)

    def forward(
        self, state: torch.Tensor, timestep: torch.Tensor, lr: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        high = torch.relu(self.body(state + self.hint(lr), timestep))
        return high, self.low(high)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Timed(C)
        self.style = nn.Linear(C, C)
        self.last = nn.Conv2d(C, C, 3, padding=1)

    def forward(
        self,
        state: torch.Tensor,
        timestep: torch.Tensor,
        high: torch.Tensor,
        low: torch.Tensor,
        features: torch.Tensor,
    ) -> torch.Tensor:
        x = self.body(state, timestep) + high + nn.functional.interpolate(low, scale_factor=2)
        return self.last(torch.relu(x) + self.style(features)[:, :, None, None])


class AtOneTime(nn.Module):
    """A network of a step that holds its timestep."""

    def __init__(self, network: nn.Module, timestep: int):
        super().__init__()
        self.network = network
        self.timestep = timestep

    def forward(self, state: torch.Tensor, *others: torch.Tensor) -> object:
        timestep = torch.full(
            (state.shape[0],), self.timestep, dtype=torch.int64, device=state.device
        )
        return self.network(state, timestep, *others)


class PartedSource(Source):
    """The model of many parts."""

    family: Literal["parted"] = "parted"
    weights: str = Field(description="A safetensors file with the names of the modules.")

    def build(self) -> SRModel:
        with torch.device("meta"):
            parts = {
                "preprocessor": Preprocessor(),
                "reference_encoder": ReferenceEncoder(),
                "encoder": Half(),
                "noise_predictor": Half(),
                "control": Control(),
                "denoiser": Denoiser(),
                "decoder": Enlarge(),
            }
            model = SRModel(
                parts,
                PROCESS,
                wiring=WIRING,
                colour_fix="none",
                multiple=4,
                tiling=Tiling(tile=32, overlap=16, margin=8),
            )
        return model.eval()

    def load(self, model: SRModel) -> None:
        read_tensors(model, self.weights)
        model.eval().requires_grad_(False)

    def data_key(self) -> str:
        return files_key([self.weights])


def parted(seed: int = 0) -> SRModel:
    """The model with random weights."""
    torch.manual_seed(seed)
    model = PartedSource(weights="").build().to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model.requires_grad_(False)


def one_step(model: SRModel) -> SRModel:
    """The same with the first step alone."""
    calls = []
    parts = {}
    for call in WIRING.calls:
        inputs = tuple(name for name in call.inputs if name != "timestep")
        calls.append(Call(call.component, inputs, call.outputs, call.each_step))
        network = getattr(model, call.component)
        if call.each_step:
            network = AtOneTime(network, PROCESS_OF_ONE.rows[0].timestep)
        parts[call.component] = network
    wiring = Wiring(tuple(calls), WIRING.ratios, WIRING.images)
    found = SRModel(parts, PROCESS_OF_ONE, wiring=wiring, colour_fix="none", multiple=4)
    return found.eval()


def save_parted(model: SRModel, file: Path) -> PartedSource:
    """Write the weights of a model, and say which source reads them."""
    from safetensors.torch import save_file

    save_file(model.state_dict(), file)
    return PartedSource(weights=str(file))

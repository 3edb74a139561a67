"""A compressed model in the manner of diffusers' pipelines.

    from compress.diffusion import SRPipeline

    pipe = SRPipeline.from_pretrained("org/name").to("cuda")
    pipe(image).images[0].save("photo_x4.png")

    pipe.push_to_hub("org/mine")

It holds what `compress.api.load` gives. Files are read as plain tensors: `trust_remote_code` and
custom code of a repository have no place here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from huggingface_hub import ModelCard, ModelHubMixin
from PIL import Image
from torch import nn

from compress.core.arguments import usable_device
from compress.core.errors import UserError
from compress.core.files import check_file
from compress.core.hub import hub_name, publishing, repository
from compress.model.passes import Pass
from compress.model.source import Source
from compress.model.sr_model import MARGIN, SCALE, SRModel
from compress.pipeline.photograph import Photograph, as_tensor
from compress.process.strength import FULL, blended, is_strength
from compress.recipe.checkpoint import MODEL_FILE, dump, load_model, read_header, save_model
from compress.recipe.run_files import LEDGER

OUTPUTS = ("pil", "np", "pt")
CARD = "README.md"


class SRPipelineOutput(BaseOutput):
    """What a call returns.

    Attributes:
        images: A list of Pillow's images, or float [B, 4h, 4w, 3] (np), [B, 3, 4h, 4w] (pt).
    """

    images: Any


class SRPipeline(ModelHubMixin):
    """A compressed super-resolution model as an object of diffusers' habits.

    It goes to the hub by huggingface_hub's `ModelHubMixin`. Saving and loading are our own: the
    header of `model.safetensors` says what the model is, and there is no `config.json`.
    """

    def __init__(self, model: SRModel, source: Source, passes: Sequence[Pass] = ()):
        """Take a model and what it was made by; `from_pretrained` does it for files.

        Args:
            model: With its values.
            source: The config of the model before all passes.
            passes: Those that made it, in their order.
        """
        self.model = model.eval().requires_grad_(False)
        self.model.tiling = replace(model.tiling, margin=model.tiling.margin or MARGIN)
        self.source = source
        self.passes = list(passes)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's has the hub's options
        cls, place: str | Path, *, revision: str | None = None
    ) -> "SRPipeline":
        """The pipeline of a run directory, a model file, a folder of `save_pretrained`, or the hub.

        Args:
            place: A path, or `org/name[@revision][:subfolder]`.
            revision: A branch, tag or commit of the hub's repository.

        Raises:
            UserError: Nothing is there, it was not written by this toolkit, or it has no revisions.
        """
        if revision is not None:
            name = hub_name(place)
            if name is None or name.revision not in (None, revision):
                raise UserError(
                    f"revision '{revision}': '{place}' is a path or has a revision of its own; "
                    "give org/name and one revision"
                )
            place = f"hf://{name._replace(revision=revision)}"
        source, passes = read_header(place)
        return cls(load_model(place), source, passes)

    def save_pretrained(  # type: ignore[override]  # the mixin's deletes config.json
        self,
        folder: str | Path,
        *,
        config: None = None,
        model_card_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Write `model.safetensors` into a folder, which is made; equal models give equal bytes.

        A file that was written so before is replaced.

        Args:
            folder: Where to write.
            config: None; the mixin hands it on, and the header of the file has it all.
            model_card_kwargs: Of `generate_model_card`, where a card is written as well. One that
                is there stays.

        Raises:
            UserError: A value is not finite, or the folder is a file, a run directory, or holds
                somebody else's `model.safetensors`.
        """
        place = Path(folder)
        if place.exists() and not place.is_dir():
            raise UserError(f"save_pretrained {place}: is a file; give a folder")
        if (place / LEDGER).exists():
            raise UserError(
                f"save_pretrained {place}: is a run directory, whose model is not overwritten; "
                "give another folder"
            )
        check_file(place / MODEL_FILE, "save_pretrained")
        place.mkdir(parents=True, exist_ok=True)
        save_model(self.model, place / MODEL_FILE, self.source, self.passes)
        if model_card_kwargs is not None and not (place / CARD).exists():
            self.generate_model_card(**model_card_kwargs).save(place / CARD)

    def generate_model_card(  # type: ignore[override]  # the mixin takes whatever a template names
        self,
        name: str,
        license: str | None = None,
        base_model: str | None = None,
        datasets: Sequence[str] = (),
    ) -> ModelCard:
        """The card: front matter as the hub reads it, how to load the model, and what made it.

        Args:
            name: The repository, `org/name`.
            license: The terms by the hub's name; None as recorded of the source.
            base_model: The model of the hub that it was made from; None as recorded of the source.
            datasets: Data sets of the hub that it was made with.

        Raises:
            UserError: Nobody recorded the terms of the source's weights, and `license` is None.
        """
        from eval.reporting.hub_card import Said, pipeline_card

        said = Said(license, base_model, tuple(datasets))
        return pipeline_card(dump(self.source), [dump(one) for one in self.passes], name, said)

    def push_to_hub(  # type: ignore[override]  # its card's words stand in the call
        self,
        repo_id: str,
        *,
        license: str | None = None,
        base_model: str | None = None,
        datasets: Sequence[str] = (),
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        commit_message: str = "A model by diffusion-sr-compress",
    ) -> str:
        """Publish the model and a card in one commit; a repository that is there gets one more.

        `compress.push` publishes a run with its figures.

        Args:
            repo_id: The repository, `org/name`; it is made where there is none.
            license: As in `generate_model_card`.
            base_model: As in `generate_model_card`.
            datasets: As in `generate_model_card`.
            private: Whether a new repository is shown to its owner alone; None as the owner's
                settings say.
            token: Who publishes; None for whom `hf auth login` has logged in.
            branch: Where the commit goes; None is the main branch.
            commit_message: Its first line.

        Returns:
            The address of the commit.

        Raises:
            UserError: As `generate_model_card`; the hub does not answer, or it refuses.
        """
        repo = repository(repo_id)
        words: dict[str, Any] = {
            "name": repo,
            "license": license,
            "base_model": base_model,
            "datasets": datasets,
        }
        self.generate_model_card(**words)  # what it lacks is told before anything is made there
        with publishing(repo):
            done = super().push_to_hub(
                repo,
                private=private,
                token=token,
                branch=branch,
                commit_message=commit_message,
                model_card_kwargs=words,
            )
        return str(done)

    def to(self, device: str | torch.device) -> "SRPipeline":
        """Move all networks to a device; returns the pipeline.

        Raises:
            UserError: This machine has no such device, or it is a number format.
        """
        if not isinstance(device, str | torch.device):
            raise UserError(
                f"to({device}): names no device, and the networks compute in float32; give one "
                "such as 'cpu' or 'cuda'"
            )
        self.model.to(torch.device(usable_device(str(device))))
        return self

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())

    @property
    def components(self) -> dict[str, nn.Module]:
        """The networks by name, in running order."""
        return dict(self.model.components())

    def __call__(
        self,
        image: Photograph | Sequence[Photograph],
        *,
        strength: float = FULL,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> SRPipelineOutput | tuple[Any]:
        """Photographs four times as large.

        Args:
            image: A file, Pillow's image, uint8 [h, w, 3] or float [1, 3, h, w] or [3, h, w] in
                [0, 1]; or a list of them. A batch is float [B, 3, h, w].
            strength: From 0, the plain enlargement, to 1, the model's whole result.
            output_type: `pil`, or for images of one size `np` or `pt`.
            return_dict: False gives a tuple, as diffusers does.

        Raises:
            UserError: An image, the strength or the output type cannot be used.
        """
        if output_type not in OUTPUTS:
            raise UserError(f"output_type '{output_type}': choose one of {', '.join(OUTPUTS)}")
        if not is_strength(strength):
            raise UserError(f"strength {strength:g}: choose a number from 0 to 1")
        made = [self._upscaled(as_tensor(one), strength) for one in _as_list(image)]
        if not made:
            raise UserError("the list of images is empty; give one photograph or more")
        images = _as(made, output_type)
        return SRPipelineOutput(images=images) if return_dict else (images,)

    def _upscaled(self, lr: torch.Tensor, strength: float) -> np.ndarray:
        """uint8 [4h, 4w, 3] of float [1, 3, h, w]."""
        made = self.model.upscale_bytes(lr.to(self.device))
        return blended(made, lr[0].float().cpu().numpy(), strength, SCALE)


def _as_list(image: Photograph | Sequence[Photograph]) -> list[Photograph]:
    if isinstance(image, torch.Tensor) and image.ndim == 4:
        return list(image)
    if isinstance(image, str | Path | Image.Image | np.ndarray | torch.Tensor):
        return [image]
    return list(image) if isinstance(image, Iterable) else [image]


def _as(made: list[np.ndarray], output_type: str) -> Any:
    if output_type == "pil":
        return [Image.fromarray(pixels) for pixels in made]
    if len({pixels.shape for pixels in made}) > 1:
        raise UserError(f"output_type '{output_type}': the images have several sizes; take pil")
    batch = np.stack(made).astype(np.float32) / 255
    return torch.from_numpy(batch).permute(0, 3, 1, 2) if output_type == "pt" else batch

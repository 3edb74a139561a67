"""Photographs of like content as a second input of a one-step model.

After the reference-guided LDM of Denisov et al. (Keldysh Institute preprint 2025-18); which of it
is stated there, and which is our choice, compress/networks/referring.py marks.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.core.tensors import read_tensors
from compress.cost.count import meta_copy
from compress.data.folder import data_hash, find_images
from compress.model.calls import STATE, Call, References
from compress.model.passes import FitContext
from compress.model.references import PHOTOGRAPH
from compress.model.sr_model import SCALE, SRModel
from compress.networks.latent_diffusion import UNetDenoiser, VAEEncoder
from compress.networks.reference_attention import Memory, ReferenceAttention
from compress.networks.referring import ReferenceEncoder, ReferenceQuery, ReferringDenoiser
from compress.training.reference_config import ReferenceAdapterConfig

MEMORY, QUERY = "reference_encoder", "reference_query"
WHO = "pass 'reference_adapter'"


class ReferenceAdapter(ReferenceAdapterConfig):
    """Let the denoiser look at photographs of like content.

    One copy of the UNet's encoder, `reference_encoder`, makes keys and values of references, once a
    photograph. Another, `reference_query`, sees the input and looks at them by cross-attention;
    what it finds is added to the UNet's decoder at each of `levels`. An adapter that is not trained
    changes nothing, and neither does any without references. The training holds all else still.
    Passes that cut channels come before this one, `strip` and `quantize` behind it.
    """

    def convert(self, model: SRModel) -> None:
        """Put the copies beside the denoiser.

        Raises:
            UserError: The model has no UNet of one step with an autoencoder, has references
                already, or too few levels; or the size does not suit it.
        """
        encoder, denoiser = self._parts(model)
        for level in self.levels:
            if level >= len(denoiser.unet.down_blocks):
                raise UserError(
                    f"{WHO}: levels has {level} and this UNet has "
                    f"{len(denoiser.unet.down_blocks)} levels, counted from 0; leave it out"
                )
        if self.size % (SCALE * model.multiple):
            raise UserError(
                f"{WHO}: size {self.size} is no multiple of {SCALE * model.multiple}, which this "
                "model needs; round it"
            )
        with torch.device(next(denoiser.parameters()).device):
            memory = ReferenceEncoder(encoder, denoiser, self.levels)
            query = ReferenceQuery(denoiser, self.levels)
            model.denoiser = ReferringDenoiser(denoiser, self.levels)
        for part in (memory, query, model.denoiser):
            part.train(denoiser.training).requires_grad_(False)
        self._rewire(model, memory)
        model.reference_encoder, model.reference_query = memory, query

    def _parts(self, model: SRModel) -> tuple[VAEEncoder, UNetDenoiser]:
        """What is copied."""
        encoder = model.component("encoder", WHO)
        denoiser = model.component("denoiser", WHO)
        if model.wiring.references is not None:
            raise UserError(f"{WHO}: the model has references already; list the pass once")
        reads = model.wiring.call("denoiser").inputs
        if type(denoiser) is not UNetDenoiser or reads != (STATE, "context"):
            raise UserError(
                f"{WHO}: knows the UNet of a one-step model that reads its state and a text alone, "
                f"and this denoiser is a {type(denoiser).__name__} that reads {', '.join(reads)}; "
                "take source.family=osediff, and list the pass before those that replace networks"
            )
        if not isinstance(encoder, VAEEncoder):
            raise UserError(
                f"{WHO}: references go through the autoencoder's encoder, and this one is a "
                f"{type(encoder).__name__}; list the pass before those that replace it"
            )
        return encoder, denoiser

    def _rewire(self, model: SRModel, memory: ReferenceEncoder) -> None:
        """Name the values, and what reads and makes them."""
        latent_side = int(self.size / SCALE * model.latent_ratio)
        kept: dict[str, tuple[int, ...]] = {}
        ratios: dict[str, float] = {}
        for level, width in zip(self.levels, memory.widths, strict=True):
            shape = ((latent_side >> level) ** 2, width)
            kept |= {f"keys_{level}": shape, f"values_{level}": shape}
            ratios[f"added_{level}"] = model.latent_ratio / 2**level
        shared = tuple(name for name in kept if name.startswith("values"))
        aside = Call(MEMORY, (PHOTOGRAPH, "context"), tuple(kept), aside=True)
        query = Call(QUERY, (STATE, "context", *kept), tuple(ratios), each_step=True)
        calls = []
        for call in model.wiring.calls:
            if call.component == "denoiser":
                calls += [aside, query]
                call = replace(call, inputs=(*call.inputs, *ratios))
            calls.append(call)
        model.wiring = replace(
            model.wiring,
            calls=tuple(calls),
            ratios={**model.wiring.ratios, **ratios},
            references=References(MEMORY, self.references, (self.size, self.size), kept, shared),
        )

    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        """Set the adapter's first values, read trained ones, or train it.

        Raises:
            UserError: A file or a photograph cannot be read, or does not fit.
        """
        adapter = self._adapter(model)
        with torch.random.fork_rng():
            torch.manual_seed(context.seed)
            for module in adapter.modules():
                if isinstance(module, (Memory, ReferenceAttention)):
                    for layer in module.children():
                        fresh: Any = layer
                        fresh.reset_parameters()
                if isinstance(module, ReferenceAttention):
                    module.start()
        if self.weights:
            return self._read(model)
        if not self.steps:
            return {}
        # Here: it needs what only the extra `training` installs.
        from compress.training.referring import train_adapter

        return train_adapter(self, model, adapter, context)

    def _adapter(self, model: SRModel) -> nn.ModuleDict:
        """What the pass has added."""
        return nn.ModuleDict({name: getattr(model, name) for name in (MEMORY, QUERY)})

    def _read(self, model: SRModel) -> dict[str, Any]:
        """Take the values of a trained adapter."""
        file = self._file()
        if not file.is_file():
            raise UserError(f"{WHO}: weights: {file} does not exist; train one with `steps`")
        twin = meta_copy(model)
        read_tensors(twin, file)
        self._adapter(model).load_state_dict(self._adapter(twin).state_dict())
        return {"weights": file.name}

    def _file(self) -> Path:
        path = Path(self.weights or "")
        return path / "model.safetensors" if path.is_dir() else path

    def data_key(self) -> str:
        """Identity of the photographs and of the weights; empty without training."""
        if self.weights:
            return files_key([self._file()])
        if not self.steps:
            return ""
        weights = [self.lpips_weights] if self.lpips_weights else []
        return json.dumps([data_hash(find_images(self.data.folders)), files_key(weights)])

"""Train a source model: `python -m compress.train RECIPE [key=value ...] [--workdir DIR] [-o FILE]`.

For several devices: `accelerate launch -m compress.train RECIPE ...`. A killed run, started again with the same
--workdir, goes on from its last checkpoint. With --export-checkpoint FILE nothing is trained: the averaged weights of
the last checkpoint in --workdir are written as a model file, also while the training goes on.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from pydantic import Field, model_validator
from torch import nn
from torch.utils.data import DataLoader

from compress.core import folders
from compress.core.config import Strict, override, read_yaml, validate
from compress.core.errors import UserError, command
from compress.core.files import MADE_BY, FileName, check_weights, write_text
from compress.core.machine import hardware
from compress.core.processes import is_main
from compress.core.tensors import read_tensors
from compress.data.degradation import PRESETS
from compress.data.folder import RandomCrops, data_hash, find_images
from compress.model.sr_model import SCALE, SRModel
from compress.recipe.checkpoint import parse_source, save_model
from compress.stages import edge as edge_stages
from compress.stages import shift as shift_stages
from compress.stages.averaged import AVERAGED, export_averaged, read_stage
from compress.stages.taught import Photographs, Taught, TeacherConfig
from compress.training import losses, stages
from compress.training.adversarial import adversarial
from compress.training.discriminator import patch_discriminator
from compress.training.loop import EMA, PRECISION, train
from compress.training.soften import CROPS, soften

LATENT_POOL = 4096  # precomputed pairs
ON_IMAGES = ("l1", "mse", "frequency", "lpips", "gan")
# Stage -> its losses.
LOSSES = {
    "autoencoder": (*ON_IMAGES, "kl"),
    "pixel_blocks": ("blocks", *ON_IMAGES),
    "latent": ("l1", "mse"),
    "end_to_end": ON_IMAGES,
    "vq_autoencoder": (*ON_IMAGES, "vq"),
    "resshift": ("l1", "mse"),
    "sinsr": ("teacher", "inverse", "truth"),
    "edge_autoencoder": (*ON_IMAGES, "kl"),
    "edge_encoder": ("latent", "nll"),
    "edge_teacher": ("latent", "nll"),
    "edge_joint": ("latent", "nll", "distill", *ON_IMAGES),
    "edge_one_step": ("latent", "nll", *ON_IMAGES),
    "edge_decoder": ON_IMAGES,
}
# Family -> the stages that fit its networks.
STAGES = {
    "osediff": ("autoencoder", "pixel_blocks", "latent", "end_to_end"),
    "resshift": ("vq_autoencoder", "resshift", "sinsr", "end_to_end"),
    "edge_sd_sr": (
        "edge_autoencoder",
        "edge_encoder",
        "edge_teacher",
        "edge_joint",
        "edge_one_step",
        "edge_decoder",
        "end_to_end",
    ),
}
TAUGHT = (
    "autoencoder",
    "pixel_blocks",
    "end_to_end",
)  # stages that take their images from a teacher, if there is one
FREEZABLE = ("edge_joint", "edge_one_step", "end_to_end")  # stages that may hold the encoder still


class Data(Strict):
    folders: list[str] = []  # not needed where a folder of pairs teaches all stages
    degradation: Literal["mild", "realesrgan", "mixed"] = "mild"


class StageConfig(Strict):
    """`losses` maps losses of that stage (LOSSES) to weights; one that is not named is not computed."""

    stage: Literal[
        "autoencoder",
        "pixel_blocks",
        "latent",
        "end_to_end",
        "vq_autoencoder",
        "resshift",
        "sinsr",
        "edge_autoencoder",
        "edge_encoder",
        "edge_teacher",
        "edge_joint",
        "edge_one_step",
        "edge_decoder",
    ]
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    crop: int = Field(gt=0, multiple_of=64)
    lr: float = Field(gt=0)
    losses: dict[
        Literal[
            "l1",
            "mse",
            "frequency",
            "blocks",
            "lpips",
            "kl",
            "gan",
            "vq",
            "teacher",
            "inverse",
            "truth",
            "latent",
            "nll",
            "distill",
        ],
        float,
    ]
    encoder: Literal["joint", "frozen"] = (
        "joint"  # in the stages of FREEZABLE: whether the encoder learns as well
    )
    decoder: Literal["joint", "frozen"] = "joint"  # in end_to_end, the same for the decoder
    gan_lr: float = 1e-4
    ema: float = Field(0.999, ge=0, lt=1)
    # What of the result is trained; the rest is the weights the stage began with. Between a network trained with a GAN
    # and the one before it lie better ones than either (network interpolation, ESRGAN, arXiv 1809.00219, section 3.4).
    blend: float = Field(1.0, gt=0, le=1)
    # At its end, on stages that make images: how far the last convolution moves towards bicubic enlargement.
    soften: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _known_losses(self) -> "StageConfig":
        if wrong := [name for name in self.losses if name not in LOSSES[self.stage]]:
            raise ValueError(
                f"stage '{self.stage}' has no loss '{wrong[0]}'; choose from "
                f"{', '.join(LOSSES[self.stage])}"
            )
        if not any(self.losses.values()):
            raise ValueError(
                f"stage '{self.stage}' has no loss above 0; name one of {', '.join(LOSSES[self.stage])}"
            )
        if self.losses.get("distill") and any(self.losses.get(name) for name in ON_IMAGES):
            raise ValueError(
                "stage 'edge_joint' has the loss distill on precomputed latents only; leave out "
                f"{', '.join(name for name in ON_IMAGES if self.losses.get(name))}, or distill"
            )
        if self.soften and "gan" not in LOSSES[self.stage]:
            raise ValueError(f"stage '{self.stage}' makes no image, and has no soften")
        if self.encoder == "frozen" and self.stage not in FREEZABLE:
            raise ValueError(
                f"stage '{self.stage}' cannot hold the encoder still; {', '.join(FREEZABLE)} can"
            )
        if self.decoder == "frozen" and self.stage != "end_to_end":
            raise ValueError(f"stage '{self.stage}' cannot hold the decoder still; end_to_end can")
        return self


class TrainRecipe(Strict):
    name: FileName
    source: dict
    data: Data = Data()
    teacher: TeacherConfig | None = (
        None  # whose output the stages of TAUGHT make, instead of photographs
    )
    stages: list[StageConfig] = Field(min_length=1)
    lpips_weights: str | None = None
    lpips_net: Literal["squeeze", "alex", "vgg"] = "squeeze"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = Field(0, ge=0, le=2**31 - 1)


def initialise(model: SRModel, seed: int) -> SRModel:
    """Random values for a meta model, each module's own initialisation; the context from N(0, 1)."""
    set_seed(seed)
    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    context = getattr(model.denoiser, "context", None)
    if context is not None:
        nn.init.normal_(context)
    return model.to(memory_format=torch.channels_last)


class Trainer:
    def __init__(self, recipe: TrainRecipe, workdir: Path):
        if any("lpips" in s.losses for s in recipe.stages) and recipe.lpips_weights is None:
            raise UserError(
                "lpips_weights: a stage uses the lpips loss; give lpips_weights=FILE with pyiqa's names"
            )
        self.recipe, self.workdir = recipe, workdir
        self.source = parse_source(recipe.source)
        legal = STAGES.get(self.source.family, ())
        if wrong := [s.stage for s in recipe.stages if s.stage not in legal]:
            raise UserError(
                f"stages: '{wrong[0]}' does not fit the family '{self.source.family}'; it is trained in "
                f"{', '.join(legal) or 'no stage, because its recipe starts from another source'}"
            )
        self.images, self.degradation = (
            find_images(recipe.data.folders),
            PRESETS[recipe.data.degradation],
        )
        self.accelerator = Accelerator(mixed_precision=PRECISION[recipe.precision])
        self.model = initialise(self.source.build(), recipe.seed)
        self.source.start(self.model)
        side = SCALE * self.model.multiple
        if wrong := [s.crop for s in recipe.stages if s.crop % side]:
            raise UserError(
                f"stages: crop {wrong[0]} is none that this source takes; choose a multiple of {side}"
            )
        taught = [s.crop for s in recipe.stages if s.stage in TAUGHT]
        self.taught = None
        if recipe.teacher and taught:
            self.taught = Taught(
                recipe.teacher,
                Photographs(self.images, self.degradation),
                max(taught),
                recipe.seed,
                self.accelerator.device,
            )
        untaught = [s.stage for s in recipe.stages if s.stage not in TAUGHT]
        if not self.images and (untaught or self.taught is None or self.taught.pool):
            raise UserError(
                "data.folders is empty; name folders of photographs (a folder of pairs as teacher serves "
                f"the stages {', '.join(TAUGHT)} alone)"
            )
        workdir.mkdir(parents=True, exist_ok=True)
        self.companions = edge_stages.Companions(
            self.model, workdir, self.accelerator.is_main_process
        )

    def crops(self, crop: int, count: int, batch: int, salt: int) -> DataLoader:
        return DataLoader(
            RandomCrops(self.images, crop, count, self.recipe.seed * 1000 + salt), batch_size=batch
        )

    def samples(self, number: int, count: int) -> DataLoader:
        """Batches of stage `number`, one of TAUGHT: clean crops, or with a teacher pairs."""
        config = self.recipe.stages[number]
        if self.taught is None:
            return self.crops(config.crop, count, config.batch, 10 * number)
        before = sum(s.steps * s.batch for s in self.recipe.stages[:number] if s.stage in TAUGHT)
        found = self.taught.samples(
            config.crop, count, 10 * number, before * self.accelerator.num_processes
        )
        return DataLoader(found, batch_size=config.batch)

    def run(self) -> list[dict]:
        """All stages in order. A stage that was finished by an earlier run is read, not repeated."""
        records = []
        for number, config in enumerate(self.recipe.stages):
            name = f"{number}_{config.stage}"
            file, record = self.workdir / f"{name}.safetensors", self.workdir / f"{name}.json"
            if file.is_file() and record.is_file():
                read_tensors(self.model, file)
                self.model.to(memory_format=torch.channels_last)
                records.append(read_stage(record))
                continue
            set_seed(self.recipe.seed + number)
            records.append(self.stage(number, config, name))
            if self.accelerator.is_main_process:
                save_model(self.model, file, self.source, [])
                write_text(record, json.dumps(records[-1]))
                # A stage's seconds are whole ones.
                images = config.steps * config.batch * self.accelerator.num_processes
                print(f"{name}: {images / max(1, records[-1]['seconds']):.1f} images/s")
        return records

    def _prepare_stage(self, number: int, config: StageConfig) -> tuple[nn.Module, DataLoader]:
        world = self.accelerator.num_processes
        count, salt = config.steps * config.batch * world, 10 * number
        key = (self.recipe.seed, number, self.accelerator.process_index)
        if config.stage == "latent":
            pool = self.crops(config.crop, LATENT_POOL, 32, salt + 1)
            stages.unit_latent(self.model, next(iter(pool)))
            pairs = stages.latent_pairs(self.model, pool, self.degradation, key)
            stages.encode_at_signal_scale(self.model)
            return (
                stages.Latent(self.model, config.losses),
                DataLoader(
                    stages.LatentPairs(pairs, count, self.recipe.seed), batch_size=config.batch
                ),
            )
        if config.stage in ("resshift", "sinsr"):
            triples = shift_stages.latent_triples(
                self.model,
                self.crops(config.crop, LATENT_POOL, 32, salt + 1),
                self.degradation,
                key,
            )
            kind = (
                shift_stages.ShiftTeacher
                if config.stage == "resshift"
                else shift_stages.ShiftStudent
            )
            return (
                kind(self.model, config.losses),
                DataLoader(
                    stages.LatentPairs(triples, count, self.recipe.seed), batch_size=config.batch
                ),
            )
        if config.stage.startswith("edge_"):
            return self._prepare_edge(number, config, key, count)
        if config.losses.get("vq"):
            shift_stages.start_codebook(
                self.model, next(iter(self.crops(config.crop, 32, 32, salt + 1)))
            )
        options = (self.model, config.losses, self._perceptual(config), self.degradation, key)
        if config.stage == "vq_autoencoder":
            return (
                shift_stages.VQAutoencoderStage(*options),
                self.crops(config.crop, count, config.batch, salt),
            )
        if config.stage == "pixel_blocks":
            stage = stages.PixelBlocks(*options, clean=self._clean(number))
            self.accelerator.print(
                f"the encoder passes pixels through with an RMS error of {stage.passed_rms:.4f}"
            )
            return stage, self.samples(number, count)
        kind = {"autoencoder": stages.Autoencoder, "end_to_end": stages.EndToEnd}[config.stage]
        return kind(*options), self.samples(number, count)

    def _clean(self, number: int) -> torch.Tensor:
        """A few images [16, 3, crop, crop] of the kind that stage `number` makes."""
        crop, count = self.recipe.stages[number].crop, 16
        if self.images:
            return next(iter(self.crops(crop, count, count, 10 * number + 1)))
        samples = self.taught.samples(crop, count, 10 * number + 1, 0)
        return torch.stack([samples[i][1] for i in range(count)])

    def _perceptual(self, config: StageConfig) -> nn.Module | None:
        return (
            losses.lpips(self.recipe.lpips_weights, self.recipe.lpips_net)
            if config.losses.get("lpips")
            else None
        )

    def _prepare_edge(
        self, number: int, config: StageConfig, key: tuple[int, ...], count: int
    ) -> tuple[nn.Module, DataLoader]:
        beside, salt, kind = self.companions, 10 * number, config.stage
        if kind in ("edge_autoencoder", "edge_one_step", "edge_decoder") or any(
            map(config.losses.get, ON_IMAGES)
        ):
            options = (
                self.model,
                config.losses,
                self._perceptual(config),
                self.degradation,
                key,
                beside,
            )
            stage = (
                edge_stages.EdgeAutoencoder(
                    *options, next(iter(self.crops(config.crop, 32, 32, salt + 1)))
                )
                if kind == "edge_autoencoder"
                else edge_stages.EdgeImages(*options, kind, config.encoder)
            )
            return stage, self.crops(config.crop, count, config.batch, salt)
        # One pool for all stages, whichever of them a resumed run begins with.
        pool = beside.pool(
            self.crops(config.crop, LATENT_POOL, 32, 1),
            config.crop,
            self.degradation,
            (self.recipe.seed, key[-1]),
        )
        if config.losses.get("distill"):
            pool = beside.taught(pool)
            self.model.denoiser.load_state_dict(beside.teacher().denoiser.state_dict())
        stage = {
            "edge_encoder": lambda: edge_stages.EdgeEncoder(self.model, config.losses),
            "edge_teacher": lambda: edge_stages.EdgeTeacher(self.model, config.losses, beside),
            "edge_joint": lambda: edge_stages.EdgeJoint(self.model, config.losses, config.encoder),
        }[kind]()
        return stage, DataLoader(
            stages.LatentPairs(pool, count, self.recipe.seed), batch_size=config.batch
        )

    def stage(self, number: int, config: StageConfig, name: str) -> dict:
        self.model.eval()
        with torch.no_grad():
            stage, loader = self._prepare_stage(number, config)
        self.model.requires_grad_(False)
        parts = [part for part in stage.trained if getattr(config, part, "joint") == "joint"]
        trained = [p for part in parts for p in self.model.get_submodule(part).parameters()]
        if hasattr(stage, "beside"):  # what is trained, but no part of the model
            trained += stage.beside.parameters()
        for parameter in trained:
            parameter.requires_grad_(True)
        self.model.train()
        before = [p.detach().clone() for p in trained] if config.blend < 1 else []
        optimizers = [
            torch.optim.AdamW(
                trained, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True
            )
        ]
        modules: list[nn.Module] = [stage]
        if config.losses.get("gan"):
            modules.append(patch_discriminator().to(memory_format=torch.channels_last))
            optimizers.append(
                torch.optim.AdamW(
                    modules[1].parameters(), lr=config.gan_lr, betas=(0.5, 0.99), fused=True
                )
            )
        self.accelerator.free_memory()
        *prepared, loader = self.accelerator.prepare(*modules, *optimizers, loader)
        modules, optimizers = prepared[: len(modules)], prepared[len(modules) :]

        def step(index: int, batch: stages.Batch) -> dict[str, torch.Tensor]:
            if not isinstance(batch, torch.Tensor):
                batch = [images.contiguous(memory_format=torch.channels_last) for images in batch]
            elif batch.ndim == 4:
                batch = batch.contiguous(memory_format=torch.channels_last)
            image, terms = modules[0](batch, index)
            shown = {}
            if config.losses.get("gan"):
                real = batch if isinstance(batch, torch.Tensor) else batch[1]
                terms["gan"], shown["critic"] = adversarial(
                    modules[1], list(modules[1].parameters()), real, image.float()
                )
            total = sum(config.losses[k] * v for k, v in terms.items())
            return {"loss": total, **{k: v.detach() for k, v in terms.items()}, **shown}

        log = train(
            name,
            self.accelerator,
            modules,
            optimizers,
            loader,
            step,
            steps=config.steps,
            ema=EMA(trained, config.ema),
            workdir=self.workdir,
            beside=lambda folder: save_model(self.model, folder / AVERAGED, self.source, []),
        )
        for parameter, start in zip(trained, before):
            parameter.data.lerp_(start, 1 - config.blend)
        self.model.eval()
        record = {
            "stage": config.stage,
            "steps": config.steps,
            "seconds": log[-1]["seconds"],
            "log": log,
        }
        if hasattr(stage, "passed_rms"):
            record["passed_rms"] = stage.passed_rms
        if config.soften:
            crops = self.crops(config.crop, CROPS, 1, 10 * number + 2)
            record["softened"] = soften(
                self.model,
                (x.to(self.accelerator.device) for x in crops),
                self.degradation,
                (self.recipe.seed, number),
                config.soften,
            )
        if hasattr(stage, "finish"):
            stage.finish()
            self.accelerator.wait_for_everyone()
        return record


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m compress.train", description=__doc__.splitlines()[0]
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--workdir", type=Path, help="checkpoints (default runs/train/NAME)")
    parser.add_argument(
        "-o", "--out", type=Path, help="weights (default WORKDIR/NAME.safetensors, fp16)"
    )
    parser.add_argument(
        "--export-checkpoint",
        type=Path,
        metavar="FILE",
        help="train nothing; write the averaged weights of the last checkpoint to FILE (fp16)",
    )
    options = parser.parse_intermixed_args(argv)
    recipe = validate(
        TrainRecipe, override(read_yaml(options.recipe), options.overrides), options.recipe
    )
    workdir = options.workdir or Path("runs/train") / recipe.name
    if options.export_checkpoint:
        check_weights(options.export_checkpoint, "--export-checkpoint", [Path(options.recipe)])
        found = export_averaged(
            workdir, [s.stage for s in recipe.stages], options.export_checkpoint
        )
        print(f"wrote {options.export_checkpoint}: {found['name']} after {found['steps']} steps")
        return 0
    out = options.out or workdir / f"{recipe.name}.safetensors"
    check_weights(out, "--out", [Path(options.recipe)])
    with folders.occupied(workdir, "--workdir", is_main()):
        return write(recipe, workdir, out)


def write(recipe: TrainRecipe, workdir: Path, out: Path) -> int:
    """Train in `workdir`, and write the weights and their record beside them under `out`."""
    trainer = Trainer(recipe, workdir)
    began = time.time()
    records = trainer.run()
    if trainer.accelerator.is_main_process:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_model(trainer.model, out, trainer.source, [], dtype=torch.float16)
        record = {
            "recipe": recipe.model_dump(mode="json"),
            "hardware": hardware(),
            "images": len(trainer.images),
            "data_hash": data_hash(trainer.images),
            "torch": torch.__version__,
            "seconds": sum(r["seconds"] for r in records),
            "stages": records,
        }
        # Names identify the data; where it lay on this machine is of no use to anyone.
        record["recipe"]["data"]["folders"] = [Path(f).name for f in recipe.data.folders]
        if trainer.taught is not None:
            record["teacher_hash"] = trainer.taught.identity
            record["recipe"]["teacher"] |= {"path": Path(recipe.teacher.path).name, "cache": None}
        record["recipe"]["lpips_weights"] = recipe.lpips_weights and Path(recipe.lpips_weights).name
        write_text(out.with_suffix(".json"), json.dumps({"made_by": MADE_BY, **record}, indent=1))
        print(f"wrote {out} and {out.with_suffix('.json').name} after {time.time() - began:.0f} s")
    return 0


if __name__ == "__main__":
    main()

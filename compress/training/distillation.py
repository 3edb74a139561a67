"""The `distill` pass at work: teacher, discriminator, prior and optimisers built, then the one training loop."""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader

from compress.core.errors import UserError
from compress.core.image import write_image
from compress.core.machine import hardware
from compress.data.degradation import PRESETS
from compress.data.folder import RandomCrops, data_hash, find_images
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.process.one_step import alphas_cumprod
from compress.training import losses
from compress.training.adversarial import adversarial
from compress.training.config import DistillConfig, Prior
from compress.training.discriminator import (
    NoiseAwareDiscriminator,
    UNetDiscriminator,
    patch_discriminator,
)
from compress.training.loop import EMA, PRECISION, train
from compress.training.score import ScorePair
from compress.training.soften import CROPS, soften
from compress.training.student import Distillation, Teacher

SAMPLES = 4  # crops in a sample picture
SAMPLES_KEY = 1 << 31  # the index of their degradation, which no batch has


def accelerator(precision: str, device: torch.device) -> Accelerator:
    """A fresh one: accelerate keeps the precision of the first in the process otherwise."""
    AcceleratorState._reset_state(reset_partial_state=False)
    return Accelerator(mixed_precision=PRECISION[precision], cpu=device.type == "cpu")


def discriminator(
    config: DistillConfig, model: SRModel, teacher: Teacher
) -> tuple[nn.Module, list[nn.Parameter]]:
    """The discriminator and what of it is trained."""
    options, denoiser = config.discriminator, teacher.source.denoiser
    if options.kind == "patch":
        found = patch_discriminator()
        return found, list(found.parameters())
    if options.kind == "unet_lora":
        channels = model.decoder.decoder.mid_block.resnets[0].norm1.num_channels
        found = UNetDiscriminator(denoiser, channels, teacher.context, options.rank)
    else:
        found = NoiseAwareDiscriminator(denoiser, teacher.context, alphas_cumprod(), options.rank)
    return found, found.trainable_parameters()


def score_pair(prior: Prior, teacher: Teacher) -> ScorePair:
    """The frozen prior and its LoRA copy. A source as prior has one prompt: the negative one is its zero."""
    if prior.base == "source":
        context = teacher.source.denoiser.context if teacher.context is None else teacher.context
        if context is None:
            raise UserError(
                "prior.base 'source': the source has no text context to guide with; give the folder or "
                "hub id of SD 2.1-base"
            )
        return ScorePair(teacher.source.denoiser, context, torch.zeros_like(context), prior.rank)
    from compress.families.osediff import OSEDiffSource

    contexts = []
    for prompt in (prior.prompt, prior.negative_prompt):
        source = OSEDiffSource(size="sd21", base=prior.base, prompt=prompt)
        model = source.build()
        source.load(model)
        contexts.append(model.context())
    return ScorePair(model.denoiser, *contexts, prior.rank)


def write_samples(stage: Distillation, crops: RandomCrops, folder: Path, step: int) -> None:
    hr = torch.stack([crops[i] for i in range(SAMPLES)])
    hr = hr.to(next(stage.model.parameters()).device)
    folder.mkdir(parents=True, exist_ok=True)
    write_image(stage.samples(hr, SAMPLES_KEY).cpu(), folder / f"{step:06d}.png")


def distill(
    config: DistillConfig,
    model: SRModel,
    context: FitContext,
    before_batch: Callable[[int], None] | None = None,
) -> dict:
    """Train `model` in place; returns the ledger's figures with the log of losses. `before_batch` gets the index of
    every batch, which a resumed run continues, before the networks run on it."""
    set_seed(context.seed)
    workdir = context.workdir
    images = find_images(config.data.folders)
    accelerate = accelerator(config.precision, context.device)
    source = context.source
    on_features = config.losses.get("feature") or config.judged == "features"
    reference = context.before("decoder_join") if on_features else source
    with torch.no_grad():
        teacher = Teacher(source, reference, source.context())
    names = set(config.trained_names(model))
    for part in (source, reference, model):
        part.requires_grad_(False).to(context.device, memory_format=torch.channels_last)
    trained = [p.requires_grad_(True) for name, p in model.named_parameters() if name in names]
    start = [p.detach().clone() for p in trained] if config.blend < 1 else []
    perceptual = {}
    if config.losses.get("lpips"):
        perceptual["lpips"] = losses.lpips(config.lpips_weights, config.lpips_net).to(
            context.device
        )
    if config.losses.get("ea_dists"):
        perceptual["ea_dists"] = losses.ea_dists(config.dists_weights).to(context.device)
    scores = (
        score_pair(config.prior, teacher)
        if config.losses.get("vsd") or config.losses.get("tsm")
        else None
    )
    world, rank = accelerate.num_processes, accelerate.process_index
    stage = Distillation(
        model,
        teacher,
        config.stage,
        config.target,
        config.losses,
        config.judged,
        PRESETS[config.data.degradation],
        (context.seed, rank),
        perceptual,
        scores,
    )
    optimizers = [torch.optim.AdamW(trained, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)]
    modules, critics = [stage], []
    if config.judged:
        judge, judge_trained = discriminator(config, model, teacher)
        modules.append(judge)
        critics.append({"params": judge_trained, "lr": config.discriminator.lr})
    if config.losses.get("vsd"):
        critics.append({"params": scores.trainable_parameters(), "lr": config.prior.lr})
    if critics:
        optimizers.append(torch.optim.AdamW(critics, betas=(0.5, 0.99), weight_decay=0.0))
    batches = config.steps * config.accumulate
    loader = DataLoader(
        RandomCrops(images, config.crop, batches * config.batch * world, context.seed),
        batch_size=config.batch,
    )
    *prepared, loader = accelerate.prepare(*modules, *optimizers, loader)
    modules, optimizers = prepared[: len(modules)], prepared[len(modules) :]

    def step(index: int, hr: torch.Tensor) -> dict[str, torch.Tensor]:
        if before_batch is not None:
            before_batch(index)
        terms, real, fake = modules[0](hr.contiguous(memory_format=torch.channels_last), index)
        critic = [terms.pop("regulariser")] if "regulariser" in terms else []
        if config.judged:
            terms["gan"], judged = adversarial(modules[1], judge_trained, real, fake)
            critic.append(judged)
        total = sum(config.losses[name] * value for name, value in terms.items())
        return {
            "loss": total,
            **{name: value.detach() for name, value in terms.items()},
            **({"critic": sum(critic)} if critic else {}),
        }

    shown = RandomCrops(images, config.crop, SAMPLES, context.seed + 1)

    def after_step(done: int) -> None:
        if accelerate.is_main_process and (
            done % config.samples_every == 0 or done == config.steps
        ):
            write_samples(stage, shown, workdir / "samples", done)

    workdir.mkdir(parents=True, exist_ok=True)
    log = train(
        f"distill {config.stage}",
        accelerate,
        modules,
        optimizers,
        loader,
        step,
        steps=config.steps,
        ema=EMA(trained, config.ema),
        workdir=workdir,
        checkpoint_every=config.checkpoint_every,
        accumulate=config.accumulate,
        after_step=after_step,
    )
    accelerate.free_memory()
    model.requires_grad_(False).to(memory_format=torch.contiguous_format)
    for parameter, before in zip(trained, start):
        parameter.lerp_(before, 1 - config.blend)
    finish = {}
    if config.soften:
        crops = DataLoader(RandomCrops(images, config.crop, CROPS, context.seed + 2))
        finish["softened"] = soften(
            model,
            (x.to(context.device) for x in crops),
            PRESETS[config.data.degradation],
            (context.seed,),
            config.soften,
        )
    return {
        "images": len(images),
        "data_hash": data_hash(images),
        "steps": config.steps,
        **finish,
        "trained_parameters": sum(p.numel() for p in trained),
        "critic_parameters": sum(p.numel() for group in critics for p in group["params"]),
        "seconds": log[-1]["seconds"],
        "hardware": hardware(),
        "log": log,
    }

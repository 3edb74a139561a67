"""The `distill` pass at work: teacher, discriminator and prior are built, then the session runs."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader

from compress.core import tracks
from compress.core.errors import UserError
from compress.core.image import write_image
from compress.core.machine import hardware, in_memory_format
from compress.data.folder import RandomCrops, data_hash, find_images
from compress.data.presets import PRESETS
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.networks.sd21 import load_prior
from compress.process.one_step import alphas_cumprod
from compress.training.acceleration import accelerator
from compress.training.adapters import adapt, layers_of, merge
from compress.training.adversarial import PAIRED, SOFTPLUS, Judged
from compress.training.config import DistillConfig, Prior
from compress.training.discriminator import (
    NoiseAwareDiscriminator,
    UNetDiscriminator,
    patch_discriminator,
    told_of_pair,
)
from compress.training.loop import Hooks, Plan
from compress.training.perceptual import metrics
from compress.training.recompute import keep_activations, recompute_activations
from compress.training.score import ScorePair
from compress.training.session import Adversary, Learning, Result, Session
from compress.training.soften import CROPS, soften
from compress.training.student import Aim, Distillation, Teacher

SAMPLES = 4  # crops in a sample picture
SAMPLES_KEY = 1 << 31  # the index of their degradation, which no batch has
# What is added to the seed of a pass, so that crops for different ends differ.
SAMPLES_SALT = 1
SOFTEN_SALT = 2


def discriminator(
    config: DistillConfig, model: SRModel, teacher: Teacher
) -> tuple[nn.Module, list[nn.Parameter]]:
    """The discriminator that `config` asks for, and the parameters of it that learn."""
    options = config.discriminator
    if options.kind == "patch":
        patches = patch_discriminator()
        return patches, list(patches.parameters())
    denoiser = teacher.source.denoiser
    judge: UNetDiscriminator | NoiseAwareDiscriminator
    if options.kind == "unet_lora":
        norm: Any = model.decoder.get_submodule("decoder.mid_block.resnets.0.norm1")
        judge = UNetDiscriminator(
            denoiser, norm.num_channels, teacher.context, options.rank, options.alpha
        )
    else:
        judge = NoiseAwareDiscriminator(
            denoiser, teacher.context, alphas_cumprod(), options.rank, options.alpha
        )
    return judge, judge.trainable_parameters()


def score_pair(prior: Prior, teacher: Teacher) -> ScorePair:
    """The frozen prior and its LoRA copy.

    A source as prior has one prompt, and zeros in place of the negative one.

    Raises:
        UserError: The source has no prompt, or the files of the prior cannot be read.
    """
    if prior.base == "source":
        own: torch.Tensor | None = getattr(teacher.source.denoiser, "context", None)
        context = own if teacher.context is None else teacher.context
        if context is None:
            raise UserError(
                "prior.base 'source': the source has no text context to guide with; give the "
                "folder or hub id of SD 2.1-base"
            )
        zeros = torch.zeros_like(context)
        return ScorePair(teacher.source.denoiser, context, zeros, prior.rank, prior.alpha)
    denoiser, context = load_prior(prior.base, prior.prompt)
    denoiser, negative = load_prior(prior.base, prior.negative_prompt)
    return ScorePair(denoiser, context, negative, prior.rank, prior.alpha)


def make_samples(stage: Distillation, crops: RandomCrops) -> torch.Tensor:
    """`Distillation.samples` of the first crops, on the CPU."""
    hr = torch.stack([crops[i] for i in range(SAMPLES)])
    hr = hr.to(next(stage.model.parameters()).device)
    return stage.samples(hr, SAMPLES_KEY).cpu()


def distill(
    config: DistillConfig,
    model: SRModel,
    context: FitContext,
    before_batch: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train `model` in place as `config` says.

    Args:
        config: The keys of the pass.
        model: The student.
        context: Has the source, the seed, the device, and a folder for checkpoints.
        before_batch: Gets the number of the optimiser step, which a resumed run continues, before
            the networks run on each of its batches.

    Returns:
        The ledger's figures, with the log of losses.

    Raises:
        UserError: A folder, a weight file or the model does not fit the config.
    """
    return _Distilling(config, model, context).run(before_batch)


class _Distilling:
    """One distillation, from its config to its figures."""

    def __init__(self, config: DistillConfig, model: SRModel, context: FitContext):
        if context.workdir is None:
            raise ValueError("distillation needs a folder for its checkpoints: context.workdir")
        set_seed(context.seed)
        self.config = config
        self.model = model
        self.context = context
        self.workdir = context.workdir
        self.images = find_images(config.data.folders)
        self.degradation = PRESETS[config.data.degradation]
        self.accelerate = accelerator(config.precision, context.device)
        teacher = self._teacher()
        self.trained = self._place(teacher)
        perceptual = self._perceptual()
        scores = None
        if config.prior is not None and (config.losses.get("vsd") or config.losses.get("tsm")):
            scores = score_pair(config.prior, teacher)
        self.stage = Distillation(model, teacher, self._aim(), perceptual, scores)
        self.session = Session(
            self.accelerate,
            self.stage,
            self.trained,
            dict(config.losses.items()),
            Learning(lr=config.lr, ema=config.ema, blend=config.blend, shard=config.shard),
        )
        self.watched: dict[str, Any] = {}
        self.judge: nn.Module | None = None
        if config.judged:
            self.judge, judging = discriminator(config, model, teacher)
            form = PAIRED if config.discriminator.kind == "patch" else SOFTPLUS
            rate = config.discriminator.lr
            self.session.add_critic(judging, rate, self.judge, Adversary(form))
        if config.prior is not None and scores is not None and config.losses.get("vsd"):
            self.session.add_critic(scores.trainable_parameters(), config.prior.lr)

    def run(self, before_batch: Callable[[int], None] | None) -> dict[str, Any]:
        """Train, and return the ledger's figures."""
        config = self.config

        batches = config.accumulate * self.accelerate.num_processes

        def forward(stage: nn.Module, number: int, hr: torch.Tensor) -> Result:
            if before_batch is not None:
                before_batch(number // batches)
            terms, real, fake = stage(hr.contiguous(memory_format=torch.channels_last), number)
            if real is None:
                return Result(terms, None)
            return Result(terms, Judged(real, fake, told_of_pair(self.judge, len(real))))

        self.workdir.mkdir(parents=True, exist_ok=True)
        plan = Plan(
            name=f"distill {config.stage}",
            workdir=self.workdir,
            steps=config.steps,
            accumulate=config.accumulate,
            checkpoint_every=config.checkpoint_every,
            key=(self.context.seed,),
        )
        if config.recompute:
            recompute_activations(self.model)
        log = self.session.run(plan, self._loader(), forward, self._hooks())
        keep_activations(self.model)
        merge(self.model)
        in_memory_format(self.model.requires_grad_(False), torch.contiguous_format)
        self.session.blend()
        softened = self._soften()
        return {
            "images": len(self.images),
            "data_hash": data_hash(self.images),
            "steps": config.steps,
            **softened,
            "trained_parameters": sum(p.numel() for p in self.trained),
            "critic_parameters": sum(p.numel() for p in self.session.critic_parameters),
            "seconds": log[-1]["seconds"],
            "hardware": hardware(),
            "log": log,
            **self.watched,
        }

    def _teacher(self) -> Teacher:
        """The source, and where features are compared the model before its decoder was joined."""
        source = self.context.source
        on_features = self.config.losses.get("feature") or self.config.judged == "features"
        reference = self.context.before("decoder_join") if on_features else source
        with torch.no_grad():
            return Teacher(source, reference, source.constants())

    def _place(self, teacher: Teacher) -> list[nn.Parameter]:
        """Move all models to the device, and let alone what learns have gradients; returns that."""
        names = set(self.config.trained_names(self.model))
        for part in (teacher.source, teacher.reference, self.model):
            part.requires_grad_(False)
            in_memory_format(part.to(self.context.device), torch.channels_last)
        trained = [p for name, p in self.model.named_parameters() if name in names]
        if self.config.lora is not None:
            layers = layers_of(self.model, names)
            trained = adapt(self.model, layers, self.config.lora, "pass 'distill'")
        for parameter in trained:
            parameter.requires_grad_(True)
        return trained

    def _perceptual(self) -> dict[str, nn.Module]:
        """The metrics that losses use, on the device."""
        found = metrics(dict(self.config.losses.items()), self.config)
        return {name: metric.to(self.context.device) for name, metric in found.items()}

    def _aim(self) -> Aim:
        config = self.config
        return Aim(
            stage=config.stage,
            target=config.target,
            weights=dict(config.losses.items()),
            judged=config.judged,
            degradation=self.degradation,
            key=(self.context.seed, 0),
        )

    def _loader(self) -> DataLoader:
        config = self.config
        batches = config.steps * config.accumulate
        count = batches * config.batch * self.accelerate.num_processes
        crops = RandomCrops(self.images, config.crop, count, self.context.seed)
        return DataLoader(crops, batch_size=config.batch)

    def _hooks(self) -> Hooks:
        """Sample pictures, and a look at the model where somebody wants one."""
        watch = self.context.watch
        if watch is None:
            return Hooks(after_step=self._sampler())
        shares = {max(1, round(share * self.config.steps)): share for share in watch.shares}
        values: dict[str, float] = {}
        self.watched = {"watched": {"name": watch.name, "values": values}}

        def look(done: int) -> None:
            share = shares[done]
            with torch.no_grad():
                values[f"{share:.3f}"] = watch.look(self.model, share)

        return Hooks(after_step=self._sampler(), watch=look, watch_at=frozenset(shares))

    def _sampler(self) -> Callable[[int], None]:
        """What writes a sample picture, every so many steps and at the end."""
        config = self.config
        seed = self.context.seed + SAMPLES_SALT
        crops = RandomCrops(self.images, config.crop, SAMPLES, seed)

        def after_step(done: int) -> None:
            if done % config.samples_every and done != config.steps:
                return
            is_main = self.accelerate.is_main_process
            if not is_main and self.session.sharded is None:
                return
            with self.session.whole():  # which all processes put together
                image = make_samples(self.stage, crops)
            if is_main:
                folder = self.workdir / "samples"
                folder.mkdir(parents=True, exist_ok=True)
                write_image(image, folder / f"{done:06d}.png")
                tracks.current().picture(done, image)

        return after_step

    def _soften(self) -> dict[str, float]:
        """Soften the result where the config says so; returns the figure of it."""
        config = self.config
        if not config.soften:
            return {}
        seed = self.context.seed + SOFTEN_SALT
        loader = DataLoader(RandomCrops(self.images, config.crop, CROPS, seed))
        crops = (hr.to(self.context.device) for hr in loader)
        key = (self.context.seed,)
        return {"softened": soften(self.model, crops, self.degradation, key, config.soften)}

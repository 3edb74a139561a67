"""Training of a source model, stage after stage."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn

from compress.core import tracks
from compress.core.errors import UserError
from compress.core.files import MADE_BY, write_text
from compress.core.identity import content_digest
from compress.core.machine import in_memory_format
from compress.core.processes import check_same
from compress.core.tensors import read_tensors
from compress.data.folder import find_images
from compress.data.presets import PRESETS
from compress.process.resample import SCALE
from compress.recipe.checkpoint import parse_source, save_model
from compress.stages.averaged import AVERAGED, read_stage
from compress.stages.base import SOFTEN_SALT, Batch, Stage, StageRun
from compress.stages.companions import Companions
from compress.stages.recipe import StageConfig, TrainRecipe
from compress.stages.record import Made, record_of
from compress.stages.registry import STAGES, stages_of, taught_stages
from compress.stages.samples import has_samples, samples
from compress.stages.start import begin_with, start_file
from compress.stages.taught import Photographs, Taught
from compress.training.acceleration import first_accelerator
from compress.training.adapters import adapt, layers_below, merge, merged
from compress.training.adversarial import FORMS, Judged
from compress.training.initialise import initialise
from compress.training.loop import Hooks, Plan
from compress.training.perceptual import missing
from compress.training.session import Adversary, Learning, Result, Session
from compress.training.soften import CROPS, soften
from compress.training.terms import wants

_LOG = logging.getLogger(__name__)

# The weight decay of a discriminator, torch's own default of AdamW.
DISCRIMINATOR_DECAY = 0.01


# The file of a working folder that says what its training began with, and what it says of one that
# began with random values; else it is the SHA-256 of the weight file.
STARTED_FROM = "started_from.txt"
RANDOM = "random values"


class Trainer:
    """All stages of a recipe, in a working folder.

    Attributes:
        recipe: What is trained.
        workdir: Holds checkpoints and the results of stages.
        source: The recipe's source.
        model: The model, as far as it is trained.
        images: The photographs.
        taught: The teacher's samples; None without a teacher.
    """

    def __init__(self, recipe: TrainRecipe, workdir: Path):
        """Build the model with its first values, and make the working folder.

        Raises:
            UserError: Parts of the recipe do not fit each other, or files are missing.
        """
        self.recipe = recipe
        self.workdir = workdir
        self._check_metrics()
        self.source = parse_source(recipe.source)
        self._check_family()
        self.images = find_images(recipe.data.folders)
        self.degradation = PRESETS[recipe.data.degradation]
        self.accelerator = first_accelerator(recipe.precision)
        self.model = initialise(self.source.build(), recipe.seed)
        self.source.start(self.model)
        self.start = start_file(recipe.start)
        if self.start is not None:
            begin_with(self.start, self.source, self.model)
        # From here on: a stage is prepared with the model before accelerate sees it.
        self.model.to(self.accelerator.device)
        self._check_crops()
        self.taught = self._open_teacher()
        self._check_images()
        workdir.mkdir(parents=True, exist_ok=True)
        self._check_start()
        self.companions = Companions(self.model, workdir, self.accelerator.is_main_process)

    def run(self) -> list[dict[str, Any]]:
        """Train all stages in order, and return their records.

        A stage that was finished by an earlier run is read, not repeated.
        """
        records = []
        for number, config in enumerate(self.recipe.stages):
            name = f"{number}_{config.stage}"
            file = self.workdir / f"{name}.safetensors"
            record_file = self.workdir / f"{name}.json"
            is_done = file.is_file() and record_file.is_file()
            check_same(is_done, f"whether stage {name} is done", "--workdir")
            if is_done:
                self._read(file)
                records.append(read_stage(record_file))
                continue
            set_seed(self.recipe.seed + number)
            record = self.train_stage(number, config, name)
            records.append(record)
            if self.accelerator.is_main_process:
                save_model(self.model, file, self.source, [])
                write_text(record_file, json.dumps(record))
                images = config.samples * self.accelerator.num_processes
                seconds = max(1, record["seconds"])  # they are whole ones
                _LOG.info("%s: %.1f images/s", name, images / seconds)
        return records

    def _check_start(self) -> None:
        """Refuse a working folder whose training began with other weights."""
        digest = RANDOM if self.start is None else content_digest(self.start)
        file = self.workdir / STARTED_FROM
        if file.is_file():
            began = file.read_text(encoding="utf-8").strip()
        else:
            began = RANDOM if any(self.workdir.glob("*.json")) else digest
        if began != digest:
            raise UserError(
                f"start: {self.workdir} holds a training that began with other weights; give "
                "another --workdir"
            )
        if self.accelerator.is_main_process:
            write_text(file, digest)

    def _read(self, file: Path) -> None:
        """Give the model the values of a weight file."""
        read_tensors(self.model, file)
        in_memory_format(self.model, torch.channels_last)

    def train_stage(self, number: int, config: StageConfig, name: str) -> dict[str, Any]:
        """Train one stage from the model's present values on, and return its record.

        Args:
            number: Of the stage in the recipe, from 0 on.
            config: What the recipe says of it.
            name: Of its checkpoint.

        Raises:
            UserError: The stage does not fit the model, or its files are damaged.
        """
        self.model.eval()
        run = self._stage_run(number, config)
        with torch.no_grad():
            stage, loader = STAGES[config.stage].prepare(run)
        session = self._session(config, stage)
        plan = Plan(
            name=name,
            workdir=self.workdir,
            steps=config.steps,
            accumulate=config.accumulate,
            key=(run.seed, number),
        )
        log = session.run(plan, loader, _forward, Hooks(write_beside=self._write_averaged))
        session.blend()
        merge(self.model)
        in_memory_format(self.model.eval(), torch.channels_last)
        record = {
            "stage": config.stage,
            "steps": config.steps,
            "seconds": log[-1]["seconds"],
            "log": log,
            **stage.figures(),
        }
        if config.soften:
            record["softened"] = self._soften(run)
        stage.finish()
        self.accelerator.wait_for_everyone()
        return record

    def _session(self, config: StageConfig, stage: Stage) -> Session:
        """The session of a stage, all of whose learning parameters and no others have gradients."""
        trained = self._trained(config, stage)
        for parameter in trained:
            parameter.requires_grad_(True)
        self.model.train()
        learning = Learning(
            lr=config.lr,
            ema=config.ema,
            blend=config.blend,
            critic_decay=DISCRIMINATOR_DECAY,
            fused=not self.recipe.shard,
            shard=self.recipe.shard,
            factors=self._factors(config, stage),
        )
        session = Session(self.accelerator, stage, trained, dict(config.losses.items()), learning)
        if config.losses.get("gan"):
            judge, judging = stage.critic()
            judge = in_memory_format(judge.to(self.accelerator.device), torch.channels_last)
            last = stage.last_layer() if config.gan_balance else None
            form = stage.form if config.gan_form is None else FORMS[config.gan_form]
            adversary = Adversary(form, config.gan_after, last)
            session.add_critic(judging, config.gan_lr, judge, adversary)
        return session

    def _factors(self, config: StageConfig, stage: Stage) -> dict[nn.Parameter, float]:
        """Of the learning rate, for the decoder where it learns at another one."""
        if config.decoder_rate == 1:
            return {}
        if "decoder" not in stage.trained or "decoder" in config.held:
            raise UserError(
                f"stages: the decoder does not learn in '{config.stage}', so it has no "
                "decoder_rate; leave decoder_rate out"
            )
        decoder = self.model.get_submodule("decoder")
        return dict.fromkeys(decoder.parameters(), config.decoder_rate)

    def _trained(self, config: StageConfig, stage: Stage) -> list[nn.Parameter]:
        """What learns in a stage; the rest of the model takes no gradient. LoRA is put on."""
        model = self.model.requires_grad_(False)
        parts = [part for part in stage.trained if part not in config.held]
        trained: list[nn.Parameter] = []
        if config.lora is not None:
            by_pairs = [part for part in parts if part in stage.takes_lora]
            parts = [part for part in parts if part not in by_pairs]
            layers = layers_below(model, by_pairs)
            trained += adapt(model, layers, config.lora, f"stage '{config.stage}'")
            trained += [model.get_parameter(name) for name in stage.in_full]
        trained += [p for part in parts for p in model.get_submodule(part).parameters()]
        return trained + stage.companions()

    def _write_averaged(self, folder: Path, done: int) -> None:
        save_model(merged(self.model), folder / AVERAGED, self.source, [])
        track = tracks.current()
        if track.place is not None and has_samples(self.model, self.images, self.recipe.shard):
            track.picture(done, samples(self.model, self.images, self.degradation))

    def _soften(self, run: StageRun) -> float:
        """Soften the model's image as the stage says; returns the figure of it."""
        loader = run.crops(CROPS, 1, run.salt + SOFTEN_SALT)
        crops = (hr.to(self.accelerator.device) for hr in loader)
        key = (run.seed, run.number)
        return soften(self.model, crops, self.degradation, key, run.settings.soften)

    def _stage_run(self, number: int, config: StageConfig) -> StageRun:
        recipe = self.recipe
        earlier = [s for s in recipe.stages[:number] if STAGES[s.stage].takes_teacher]
        taught_before = sum(s.samples for s in earlier) * self.accelerator.num_processes
        return StageRun(
            model=self.model,
            settings=config,
            number=number,
            seed=recipe.seed,
            images=self.images,
            degradation=self.degradation,
            taught=self.taught,
            taught_before=taught_before,
            companions=self.companions,
            metric_files=recipe,
            latent_lpips_weights=recipe.latent_lpips_weights,
            processes=self.accelerator.num_processes,
            tell=self.accelerator.print,
        )

    def _check_metrics(self) -> None:
        for stage in self.recipe.stages:
            weights: dict[str, float] = dict(stage.losses.items())
            absent = missing(weights, self.recipe)
            if wants(weights, "latent_lpips") and self.recipe.latent_lpips_weights is None:
                absent = "latent_lpips", "latent_lpips_weights"
            if absent is not None:
                loss, key = absent
                raise UserError(
                    f"{key}: a stage uses the {loss} loss; give {key}=FILE with pyiqa's names"
                )

    def _check_family(self) -> None:
        legal = stages_of(self.source.family)
        wrong = [s.stage for s in self.recipe.stages if s.stage not in legal]
        if wrong:
            choice = ", ".join(legal) or "no stage, because its recipe starts from another source"
            raise UserError(
                f"stages: '{wrong[0]}' does not fit the family '{self.source.family}'; it is "
                f"trained in {choice}"
            )

    def _check_crops(self) -> None:
        side = SCALE * self.model.multiple
        wrong = [s.crop for s in self.recipe.stages if s.crop % side]
        if wrong:
            raise UserError(
                f"stages: crop {wrong[0]} is none that this source takes; choose a multiple of "
                f"{side}"
            )

    def _open_teacher(self) -> Taught | None:
        """The teacher's samples, where the recipe has a teacher and a stage that takes them."""
        crops = [s.crop for s in self.recipe.stages if STAGES[s.stage].takes_teacher]
        if self.recipe.teacher is None or not crops:
            return None
        return Taught(
            self.recipe.teacher,
            Photographs(self.images, self.degradation),
            max(crops),
            self.recipe.seed,
            self.accelerator.device,
        )

    def _check_images(self) -> None:
        """Refuse a recipe without photographs, unless a folder of pairs serves all stages."""
        if self.images:
            return
        untaught = [s for s in self.recipe.stages if not STAGES[s.stage].takes_teacher]
        if untaught or self.taught is None or self.taught.pool:
            raise UserError(
                "data.folders is empty; name folders of photographs (a folder of pairs as teacher "
                f"serves the stages {', '.join(taught_stages())} alone)"
            )


def _forward(stage: nn.Module, index: int, batch: Batch) -> Result:
    """One batch through a stage, in channels-last layout where it is images or latent maps."""
    if not isinstance(batch, torch.Tensor):
        batch = [images.contiguous(memory_format=torch.channels_last) for images in batch]
    elif batch.ndim == 4:
        batch = batch.contiguous(memory_format=torch.channels_last)
    made, terms = stage(batch, index)
    if isinstance(made, Judged):
        return Result(terms, made)
    real = batch if isinstance(batch, torch.Tensor) else batch[1]
    return Result(terms, Judged(real, made.float()))


def train_model(recipe: TrainRecipe, workdir: Path, out: Path) -> None:
    """Train in `workdir`, and write the weights and their record.

    Args:
        recipe: What is trained.
        workdir: Holds checkpoints; a run that was killed goes on from them.
        out: The weight file, fp16. The record lies beside it, as JSON.

    Raises:
        UserError: Parts of the recipe do not fit each other, or files are missing or damaged.
    """
    trainer = Trainer(recipe, workdir)
    began = time.time()
    records = trainer.run()
    if not trainer.accelerator.is_main_process:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    save_model(trainer.model, out, trainer.source, [], dtype=torch.float16)
    record_file = out.with_suffix(".json")
    teacher = None if trainer.taught is None else trainer.taught.identity
    made = Made(recipe, trainer.images, trainer.start, teacher)
    record = {"made_by": MADE_BY, **record_of(made, records)}
    write_text(record_file, json.dumps(record, indent=1))
    print(f"wrote {out} and {record_file.name} after {time.time() - began:.0f} s")

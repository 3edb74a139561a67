"""One training from its parts: optimisers, a critic, accelerate, the average and the blend.

`Session` holds what the training of a source model and the distillation of a compressed one have
in common. A caller builds a stage, which is a module that computes losses, says what of it learns,
and runs the session.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from compress.core.errors import UserError
from compress.core.processes import count
from compress.training.adversarial import SOFTPLUS, Form, Judged, adversarial, balance
from compress.training.ema import EMA
from compress.training.loop import NO_HOOKS, Hooks, Parts, Plan, train
from compress.training.sharding import Sharded
from compress.training.terms import Terms, Weights, weighted_sum

# AdamW's decay rates of both moments. A critic forgets the gradient sooner, as is usual for a GAN.
BETAS = (0.9, 0.99)
CRITIC_BETAS = (0.5, 0.99)
# A term that the critic's optimiser minimises and the stage returns (`score.regulariser_loss`).
REGULARISER = "regulariser"


@dataclass(frozen=True)
class Learning:
    """How a session learns.

    Attributes:
        lr: The learning rate at its highest.
        ema: The decay of the averaged weights, in [0, 1).
        blend: How much of the result is trained; the rest is the weights that the session began
            with. Between a network trained with a GAN and the one before it lie better ones than
            either (network interpolation, ESRGAN, arXiv 1809.00219, section 3.4). Above 1 the
            weights go on beyond the end, on the straight line from the beginning.
        critic_decay: Weight decay of the critic.
        fused: AdamW's option of that name; None leaves it to torch.
        shard: Whether several processes spread the stage's parameters over themselves.
        factors: Of the learning rate, for parameters that learn at another one.
    """

    lr: float
    ema: float
    blend: float = 1.0
    critic_decay: float = 0.0
    fused: bool | None = None
    shard: bool = False
    factors: Mapping[nn.Parameter, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Adversary:
    """How a discriminator and what it judges learn from one another.

    Attributes:
        form: Of both losses.
        after: The steps after which the term `gan` counts; until then the discriminator learns
            alone.
        balanced: The weight of the last layer before what is judged, where the term `gan` counts
            `balance` times; None counts it once.
    """

    form: Form = SOFTPLUS
    after: int = 0
    balanced: nn.Parameter | None = None


class Result(NamedTuple):
    """What a stage gives for one batch.

    Attributes:
        terms: Of the loss. One called "regulariser" belongs to the critic.
        judged: What the discriminator compares; None without one.
    """

    terms: Terms
    judged: Judged | None


# (the stage as accelerate prepared it, number of the batch, batch) -> the result.
Forward = Callable[[nn.Module, int, Any], Result]


class Session:
    """A stage, what of it learns, and its critic.

    The order of calls is: constructor, `add_parameters` and `add_critic` where there is more to
    train, `run` once, `blend`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        stage: nn.Module,
        trained: list[nn.Parameter],
        weights: Weights,
        learning: Learning,
    ):
        """Begin with the present values of `trained`.

        Args:
            accelerator: Accelerate's.
            stage: The module that computes the terms of the loss.
            trained: The parameters that learn and are averaged.
            weights: The factors of the terms; with one of `gan` the session needs a discriminator.
            learning: How it learns.
        """
        self.accelerator = accelerator
        self.stage = stage
        self.trained = trained
        self.weights = weights
        self.learning = learning
        self.critics: list[dict[str, Any]] = []
        self._also: list[nn.Parameter] = []
        self._discriminator: nn.Module | None = None
        self._adversary = Adversary()
        self._judging: list[nn.Parameter] = []
        self._start: list[torch.Tensor] = []
        self.sharded: Sharded | None = None
        if learning.blend != 1:
            self._start = [p.detach().clone() for p in trained]

    @property
    def critic_parameters(self) -> list[nn.Parameter]:
        """What the critic's optimiser trains."""
        return [p for group in self.critics for p in group["params"]]

    def add_parameters(self, parameters: list[nn.Parameter]) -> None:
        """Train `parameters` as well, without an average of them."""
        self._also += parameters

    def add_critic(
        self,
        parameters: list[nn.Parameter],
        lr: float,
        discriminator: nn.Module | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        """Train `parameters` against the stage.

        Args:
            parameters: Those of the discriminator, or of what else follows the stage.
            lr: Their learning rate.
            discriminator: Turns what it judges into logits, positive for real. The term `gan`
                comes from it.
            adversary: How both learn from one another.
        """
        self.critics.append({"params": parameters, "lr": lr})
        if discriminator is not None:
            self._adversary = adversary or Adversary()
            self._discriminator = discriminator
            self._judging = parameters

    def run(
        self, plan: Plan, loader: Iterable, forward: Forward, hooks: Hooks = NO_HOOKS
    ) -> list[dict]:
        """Train as `plan` says, and leave the averaged weights; returns the log of `loop.train`."""
        self.accelerator.free_memory()
        modules, optimizers, loader = self._prepare(loader)
        batches = plan.accumulate * self.accelerator.num_processes

        def step(number: int, batch: Any) -> dict[str, torch.Tensor]:
            made = forward(modules[0], number, batch)
            return self._losses(modules, made, number // batches)

        ema = EMA(self._own(self.trained), self.learning.ema)
        parts = Parts(self.accelerator, modules, optimizers, ema, self.sharded)
        log = train(plan, parts, loader, step, hooks)
        self.accelerator.free_memory()
        if self.sharded is not None:
            self.sharded.undo()
            self.sharded = None
        return log

    def whole(self) -> AbstractContextManager[None]:
        """Inside, the stage has all of its values in each process. All processes enter."""
        return nullcontext() if self.sharded is None else self.sharded.whole()

    def _prepare(self, loader: Iterable) -> tuple[list[Any], list[torch.optim.Optimizer], Iterable]:
        """Modules, optimisers and batches, as they are for one of several processes."""
        judges = [] if self._discriminator is None else [self._discriminator]
        if not self.learning.shard or count() == 1:
            modules = [self.stage, *judges]
            optimizers = self._optimizers()
            *prepared, loader = self.accelerator.prepare(*modules, *optimizers, loader)
            return prepared[: len(modules)], prepared[len(modules) :], loader
        self.sharded = Sharded(self.stage, self.accelerator)
        self._check_critics(self.sharded)
        main, *critics = self._optimizers()
        self.sharded.optimizers = [main] if judges else [main, *critics]
        if not judges:
            loader = self.accelerator.prepare(loader)
            return [self.sharded], [main, *critics], loader
        judge, critic, loader = self.accelerator.prepare(*judges, *critics, loader)
        return [self.sharded, judge], [main, critic], loader

    def _check_critics(self, sharded: Sharded) -> None:
        """Refuse a critic of which a part is spread and a part is not."""
        if len({sharded.has(p) for p in self.critic_parameters}) > 1:
            raise UserError("shard: takes the loss gan or the loss vsd, not both; leave one out")

    def _own(self, parameters: list[nn.Parameter]) -> list[nn.Parameter]:
        """What this process has of `parameters`."""
        if self.sharded is None:
            return parameters
        sharded = self.sharded
        return [sharded.part(p) if sharded.has(p) else p for p in parameters]

    def blend(self) -> None:
        """Keep as much of what was learnt as `Learning.blend` says."""
        if self.learning.blend == 1:
            return
        for parameter, start in zip(self.trained, self._start, strict=True):
            parameter.data.lerp_(start, 1 - self.learning.blend)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """The stage's, and the critic's where there is one."""
        learning = self.learning
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                self._groups(),
                lr=learning.lr,
                betas=BETAS,
                weight_decay=0.0,
                fused=learning.fused,
            )
        ]
        if self.critics:
            optimizers.append(
                torch.optim.AdamW(
                    [group | {"params": self._own(group["params"])} for group in self.critics],
                    betas=CRITIC_BETAS,
                    weight_decay=learning.critic_decay,
                    fused=learning.fused,
                )
            )
        return optimizers

    def _groups(self) -> list[dict[str, Any]]:
        """What the stage's optimiser trains, by its learning rate; `Learning.lr` comes first."""
        by_factor: dict[float, list[nn.Parameter]] = {1.0: []}
        for parameter in self.trained + self._also:
            factor = self.learning.factors.get(parameter, 1.0)
            by_factor.setdefault(factor, []).append(parameter)
        return [
            {"params": self._own(parameters), "lr": self.learning.lr * factor}
            for factor, parameters in by_factor.items()
            if parameters
        ]

    def _losses(
        self, modules: list[nn.Module], result: Result, step: int
    ) -> dict[str, torch.Tensor]:
        """What the optimisers minimise, and the single terms, which are shown."""
        terms = dict(result.terms)
        weights = dict(self.weights)
        critic: list[torch.Tensor] = []
        if REGULARISER in terms:
            critic.append(terms.pop(REGULARISER))
        if self._discriminator is not None:
            if result.judged is None:
                raise ValueError("a session with a discriminator needs something real and fake")
            generator, judged = adversarial(
                modules[1], self._judging, result.judged, self._adversary.form
            )
            critic.append(judged)
            weights["gan"] *= self._gan_counts(terms, generator, step)
            terms["gan"] = generator
        losses = {"loss": weighted_sum(terms, weights)}
        for name, term in terms.items():
            losses[name] = term.detach()
        if critic:
            losses["critic"] = sum(critic[1:], start=critic[0])
        return losses

    def _gan_counts(self, terms: Terms, generator: torch.Tensor, step: int) -> float:
        """How often the weight of the term `gan` counts at a step, beside the other terms."""
        adversary = self._adversary
        if step < adversary.after:
            return 0.0
        if adversary.balanced is None:
            return 1.0
        others = weighted_sum(terms, self.weights)
        return balance(others, generator, adversary.balanced).item()

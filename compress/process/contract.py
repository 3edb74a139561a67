"""What a process is: the arithmetic round the components of the steps.

A model hands its process the values that it reads, and `Steps`. The process calls the components of
a step as often as it likes, any other component between two steps, and gives the clean latent.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch


class Steps(Protocol):
    """What a process may call. A model runs it on whole maps, or in tiles.

    A process that only predicts may be given a plain function instead.
    """

    def __call__(
        self, state: torch.Tensor, *timesteps: torch.Tensor, **values: Any
    ) -> torch.Tensor:
        """The prediction of one step.

        Args:
            state: What the components of the step see, [B, C, h, w].
            timesteps: int64 [B], of a process of several steps.
            values: What they read instead of the values of these names from before the process.

        Raises:
            ValueError: A name in `values` is read by no component of a step.
        """

    def call(self, component: str, *inputs: Any) -> Any:
        """What any component makes of other inputs than it has in the model's run.

        Args:
            component: Its name, such as the decoder's between two steps.
            inputs: Its arguments, in the order of its `Call`. A pass may have made it a constant,
                which gives the same whatever they are.

        Returns:
            One tensor, or a tuple for a component of several outputs.

        Raises:
            KeyError: The model calls no such component.
        """


class Ladder(Protocol):
    """A chain of which steps may be left out.

    The networks are called at the places 0 to `places` - 1; the number `places` is the end, the
    clean latent. A walk that visits all places is the chain itself.

    Attributes:
        timesteps: What the networks are told at each place.
        places: Steps of the whole chain.
        start: The factors of the first state, over the values that the chain reads.
        memory: How many of the visited places a skip depends on.
    """

    @property
    def timesteps(self) -> tuple[int, ...]: ...  # noqa: D102  said above
    @property
    def places(self) -> int: ...  # noqa: D102  said above
    @property
    def start(self) -> Mapping[str, float]: ...  # noqa: D102  said above

    @property
    def memory(self) -> int: ...  # noqa: D102  said above

    def clean_of(self, place: int) -> Mapping[str, float]:
        """The factors of the clean latent that a call tells, over `state` and `prediction`."""

    def onward(self, path: tuple[int, ...]) -> Mapping[str, float]:
        """The factors of the state on arriving at the last of `path`.

        They are over `state` and `prediction` of the place before it, what the chain reads, and
        `state_0`, `prediction_0` and so on of earlier places, counted along the path.

        Args:
            path: The places that were visited, from 0, and the one to arrive at.
        """


class Process(Protocol):
    """The arithmetic of a model.

    Attributes:
        inputs: Names of the values that it reads, the first of which `restore` is given first.
        period: Pixels of the latent after which its noise repeats itself; 1 without noise.
        steps: How often the components of a step are called; the most where it is adaptive, and 0
            in a model that has none.
        adaptive: Whether the number of steps depends on the image. On the meta device, where
            tensors have no values, such a process takes all of its `steps`: so a plan counts the
            most that a run can cost.
        factors: Of one step: the clean latent as a weighted sum of what is read and the prediction.
            None for several.

    A process may also have `by_tile`: where it is true, all its steps run on one tile before the
    next, and the clean latents of the tiles are blended. Else tiles are blended at each step.

    One whose noise may be turned down has `with_noise`, which maps a factor from 0 to 1 to the same
    process with its noise times that, or to None. One with a `ladder` (`Ladder`) may end early.
    `compress.process.knobs` says what a user makes of both.
    """

    @property
    def inputs(self) -> tuple[str, ...]: ...  # noqa: D102  said above
    @property
    def period(self) -> int: ...  # noqa: D102  said above
    @property
    def steps(self) -> int: ...  # noqa: D102  said above
    @property
    def adaptive(self) -> bool: ...  # noqa: D102  said above
    @property
    def factors(self) -> Mapping[str, float] | None: ...  # noqa: D102  said above

    @property
    def restore(self) -> Callable[..., torch.Tensor]:
        """(value of inputs[0], Steps, *values of inputs[1:]) -> the clean latent [B, C, h, w]."""

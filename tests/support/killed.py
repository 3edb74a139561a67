"""A training that is killed on its way, so that a test can start it again."""

from collections.abc import Callable
from dataclasses import replace

from compress.training import loop


def killed(name: str, after: int, **changes) -> Callable[..., list[dict]]:
    """`loop.train`, but that the training `name` stops after so many steps.

    Args:
        name: The training's; others run as usual.
        after: Steps.
        changes: Fields of that training's plan, such as how often it saves.
    """

    def stop(done: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    def train(plan, parts, loader, step, hooks=loop.NO_HOOKS):
        if plan.name == name:
            plan = replace(plan, **changes)
            hooks = replace(hooks, after_step=stop)
        return loop.train(plan, parts, loader, step, hooks)

    return train

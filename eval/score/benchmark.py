"""A model measured on a data set: restored, rounded to 8 bits, scored, averaged."""

from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from compress.core.errors import UserError
from compress.data.referring import identity, sentence
from compress.model.sr_model import SRModel
from compress.process.knobs import OUTPUTS
from compress.process.strength import FULL
from compress.recipe.checkpoint import model_path
from eval.data.dataset import DataSet, open_data
from eval.data.folders import DataSpec
from eval.metric.locating import Located, locate
from eval.metric.names import metric_of
from eval.score.averages import averages
from eval.score.cache import ScoreCache, Value
from eval.score.options import EvaluateOptions
from eval.score.results import Row, write_references, write_results
from eval.score.scoring import score
from eval.score.sources import Source, find_source, key_of_file
from eval.score.worker import Job, Outcome


def evaluate(
    model: SRModel | str | Path,
    data: DataSet | DataSpec | str | Path,
    options: EvaluateOptions | None = None,
) -> dict[str, Any]:
    """Score a model on a data set.

    Args:
        model: A model, its run directory or .safetensors file, or a folder of restored images.
        data: An open data set, or what `open_data` takes.
        options: How to measure, and where results go. Its `out` gets metrics.csv and
            averages.json, its `save` the restored images as PNG.

    Returns:
        {metric: mean or None, "images": n, "data": name, "protocol": name,
        "blank": {metric: why values are missing}, "problems": {image: what is wrong with it},
        "notes": [what is odd about the data]}, and the "speedup" that was given.

    Raises:
        UserError: Everything a user can put right that concerns all images.
    """
    options = options or EvaluateOptions()
    options.check()
    located = locate(options.metrics, options.iqa_weights)  # a misspelt metric shows before work
    if not isinstance(data, DataSet):
        data = open_data(data, limit=options.limit, convert=options.convert)
    source = find_source(model, data, options)
    job = _job(source, located, options)
    if options.out is not None:  # a place that cannot be written shows before work, too
        Path(options.out).mkdir(parents=True, exist_ok=True)
    outcomes = _measure(job, data, source, options)
    result, good = _result(outcomes, data, source, located, options)
    if options.out is not None:
        names = [n for n in located.names if not metric_of(n).of and not metric_of(n).features]
        write_results(Path(options.out), _rows(good, data), result, names)
        write_references(Path(options.out), {one.name: one.references for one in good})
    return result


def _job(source: Source, located: Located, options: EvaluateOptions) -> Job:
    return Job(
        located,
        options.device,
        model=source.model,
        restored=source.restored,
        model_key=_key_with(source.model_key or options.model_key, options),
        strength=options.strength,
        references=options.given_references,
        knob=options.knob,
        faithful=None if options.faithful is None else Path(options.faithful),
        convert=options.convert,
        save=None if options.save is None else Path(options.save),
        cache=None if options.cache is None else Path(options.cache),
        threads=max(1, torch.get_num_threads() // options.processes),
    )


def _key_with(model_key: str | None, options: EvaluateOptions) -> str | None:
    """The identity of what a model computes at a strength, with references."""
    if model_key is None:
        return None
    if options.strength != FULL:
        knob = "" if options.knob == OUTPUTS else options.knob
        faithful = "" if options.faithful is None else key_of_file(model_path(options.faithful))
        model_key = f"{model_key}@{options.strength!r}{knob}{faithful}"
    if options.given_references:
        model_key = f"{model_key}+{identity(options.given_references)}"
    return model_key


def _measure(job: Job, data: DataSet, source: Source, options: EvaluateOptions) -> list[Outcome]:
    """All outcomes in the data set's order; measured scores are cached group by group."""
    pairs = [pair for pair in data.pairs if pair.name not in source.problems]
    size = options.images_at_once
    groups = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    processes = min(options.processes, max(1, len(groups)))
    cache = ScoreCache(job.cache)
    outcomes: list[Outcome] = []
    hidden = None if options.progress else True  # None: shown on a terminal alone
    with tqdm(total=len(pairs), desc=data.name, unit="image", disable=hidden) as bar:
        for group in score(job, groups, processes, source.restore):
            fresh: dict[str, Value] = {}
            for outcome in group:
                fresh |= outcome.fresh
            cache.put(fresh)
            outcomes += group
            bar.update(len(group))
    return outcomes


def _result(
    outcomes: list[Outcome],
    data: DataSet,
    source: Source,
    located: Located,
    options: EvaluateOptions,
) -> tuple[dict[str, Any], list[Outcome]]:
    """What `evaluate` returns, and the outcomes of the images that could be measured."""
    problems = data.problems | source.problems
    good = []
    for outcome in outcomes:
        if outcome.problem is None:
            good.append(outcome)
        else:
            problems[outcome.name] = outcome.problem
    if not good:
        name, why = next(iter(problems.items()))
        raise UserError(
            f"none of {len(problems)} images could be measured; the first, {name}: {why}"
        )
    means, blank = averages(good, located, options.speedup)
    result: dict[str, Any] = {
        **means,
        "images": len(good),
        "data": data.name,
        "protocol": data.protocol,
        "blank": blank,
        "problems": problems,
        "notes": [*data.notes, *_about_references(good, options)],
    }
    if options.speedup is not None:
        result["speedup"] = options.speedup
    return result, good


def _about_references(outcomes: list[Outcome], options: EvaluateOptions) -> list[str]:
    """What a reader must know of a model that refers to photographs."""
    if options.given_references:
        found = [sentence(options.given_references)]
        leaks = sum(outcome.saw_original for outcome in outcomes)
        if leaks:
            found.append(
                f"{leaks} of {len(outcomes)} images referred to their own original: what was "
                "measured is an upper bound and no result"
            )
        return found
    if any(outcome.misses_references for outcome in outcomes):
        return ["evaluated without references, though the model takes some; give --references"]
    return []


def _rows(outcomes: list[Outcome], data: DataSet) -> list[Row]:
    return [
        {"image": outcome.name, "data": data.name, "protocol": data.protocol, **outcome.scores}
        for outcome in outcomes
    ]

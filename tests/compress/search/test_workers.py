"""Workers of one study: the same points whoever works, is killed, or loses the store."""

import itertools
import os
import signal
import time

import pytest

pytest.importorskip("optuna", reason="a study is Optuna's: pip install optuna")

from support.studies import QUICK, formula, outcome, settings_of, start, wait_for, work

from compress.core.errors import UserError
from compress.search import snapshot
from compress.search.attempts import LOST, WHY, standings
from compress.search.propose import Proposer
from compress.search.results import FAILED, MEASURED, result
from compress.search.settings import agree
from compress.search.store import Store, StoreLostError
from compress.search.worker import Pace, Worker

EVERY = [dict(zip("abc", values, strict=True)) for values in itertools.product("012", repeat=3)]


def brute_force_front():
    """Points of the grid that no other beats, by all pairs."""
    found = [(formula(0, point, []), point) for point in EVERY]
    values = [(one["costs"]["bytes"], -one["metrics"]["psnr"]) for one, _ in found]
    return sorted(
        (mine[0], -mine[1])
        for mine in values
        if not any(a <= mine[0] and b <= mine[1] and (a, b) != mine for a, b in values)
    )


def front_of(folder, settings):
    rows = snapshot.read(folder)
    best = snapshot.front(snapshot.measured(rows), settings.objectives)
    return sorted((point.figures["bytes"], point.figures["psnr"]) for point in best)


@pytest.mark.parametrize(("sampler", "trials"), [("grid", 27), ("nsga2", 24)])
def test_the_front_of_a_grid_is_that_of_brute_force(tmp_path, sampler, trials):
    settings = settings_of(sampler, batch=5)
    points = work(tmp_path / "study", settings, trials)
    assert len(points) == trials
    assert front_of(tmp_path / "study", settings) == brute_force_front()


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_no_point_of_a_small_space_is_tried_twice_and_its_end_is_seen(tmp_path, sampler):
    points = work(tmp_path / "study", settings_of(sampler, ("a=0,1,2", "b=0,1", "c=1,2"), 4), 100)
    tried = [tuple(one.ended.params.items()) for one in points.values()]
    assert len(set(tried)) == len(tried) == 12


def test_equal_seeds_give_equal_studies_and_others_do_not(tmp_path):
    varies = ("a=0:2", "b=0:2", "c=0,1,2")
    found = [
        outcome(work(tmp_path / name, settings_of("nsga2", varies, 4, seed=seed), 6))
        for name, seed in (("one", 5), ("same", 5), ("other", 6))
    ]
    assert found[0] == found[1] != found[2]


def test_a_longer_study_begins_as_a_shorter_one(tmp_path):
    settings = settings_of("nsga2", batch=4)
    short = outcome(work(tmp_path / "study", settings, 10))
    longer = outcome(work(tmp_path / "study", settings, 14))
    assert {number: longer[number] for number in short} == short
    assert longer == outcome(work(tmp_path / "whole", settings, 14))


def until_killed(folder, settings, trials):
    """A worker that is stuck in its third point."""

    def measure(number, point, earlier):
        if number == 2:
            (folder / ".stuck").touch()
            time.sleep(600)
        return formula(number, point, earlier)

    work(folder, settings, trials, measure)


def slowly(number, point, earlier):
    time.sleep(0.01)
    return formula(number, point, earlier)


@pytest.mark.parametrize("sampler", ["nsga2", "grid"])
def test_two_workers_with_one_killed_give_the_study_of_one(tmp_path, sampler):
    settings = settings_of(sampler, batch=6)
    alone = outcome(work(tmp_path / "alone", settings, 12))
    folder = tmp_path / "shared"
    agree(folder, settings)
    killed = start(until_killed, folder, settings, 12)
    wait_for((folder / ".stuck").exists)
    other = start(work, folder, settings, 12, slowly)
    wait_for(lambda: len(Store(folder, settings).trials()) > 3)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    other.join()
    assert other.exitcode == 0
    together = Store(folder, settings).standings()
    assert outcome(together) == alone
    assert [one.user_attrs.get(WHY) for one in together[2].attempts] == [LOST, None]


def without_store(folder, settings):
    """A worker whose store goes away in its second point, and comes back."""

    def measure(number, point, earlier):
        if number == 1:
            folder.rename(folder.with_name("gone"))
            (folder.parent / "went").touch()
        return formula(number, point, earlier)

    work(folder, settings, 4, measure)


def test_a_worker_waits_for_its_store(tmp_path):
    settings = settings_of("nsga2", batch=2)
    folder = tmp_path / "study"
    agree(folder, settings)
    worker = start(without_store, folder, settings)
    wait_for((tmp_path / "went").exists)
    time.sleep(0.3)
    assert not folder.exists()
    (tmp_path / "gone").rename(folder)
    worker.join()
    assert worker.exitcode == 0
    points = Store(folder, settings).standings()
    assert outcome(points) == outcome(work(tmp_path / "alone", settings, 4))
    assert all(len(one.attempts) == 1 for one in points.values())


def test_a_store_that_stays_away_ends_the_worker_with_a_sentence(tmp_path):
    settings = settings_of()
    agree(tmp_path / "study", settings)
    store = Store(tmp_path / "study", settings, patience=0.0)
    (tmp_path / "study").rename(tmp_path / "gone")
    with pytest.raises(StoreLostError, match="give the same command again"):
        store.trials()


def test_a_worker_that_was_given_up_does_not_count(tmp_path):
    """It comes back when another one has measured its point: the result is dropped."""
    settings = settings_of("grid")
    folder = tmp_path / "study"
    agree(folder, settings)
    fast = Pace(beat=600, grace=0.0, poll=0.0)

    def measure(number, point, earlier):
        if number == 0:
            other = Store(folder, settings)
            other.me = ["another machine", 1]
            other.reap(grace=-1)  # nothing was heard of this worker
            Worker(other, settings, 3, formula, fast).run()
            return result(FAILED, "the late one")
        return formula(number, point, earlier)

    points = work(folder, settings, 3, measure)
    assert [one.ended.user_attrs["result"]["state"] for one in points.values()] == [MEASURED] * 3
    assert len(points[0].attempts) == 2


def test_of_two_attempts_at_a_point_the_first_that_ended_counts(tmp_path):
    settings = settings_of("grid")
    agree(tmp_path / "study", settings)
    store = Store(tmp_path / "study", settings)
    proposed = Proposer(settings).propose(range(2), {})
    for number in (0, 0, 1):  # two workers queued the first one at once
        store.add(number, proposed[number])
    points = Worker(store, settings, 2, formula, QUICK).run()
    assert [len(one.attempts) for one in points.values()] == [2, 1]
    assert outcome(points)[0] == outcome(work(tmp_path / "other", settings, 1))[0]


def test_a_point_that_costs_three_workers_has_failed(tmp_path):
    settings = settings_of("grid")
    agree(tmp_path / "study", settings)
    store = Store(tmp_path / "study", settings)
    store.add(0, Proposer(settings).propose(range(1), {})[0])
    for _ in range(3):
        store.repair()
        [waiting] = [one.first for one in store.standings().values()]
        assert store.take(waiting)
        assert store.give_up(waiting, LOST)
    points = Worker(store, settings, 1, formula, QUICK).run()
    assert points[0].ended.user_attrs["result"]["reason"] == "3 workers were lost on it"


def test_an_interrupted_worker_gives_its_point_back(tmp_path):
    settings = settings_of("grid")

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(tmp_path / "study", settings, 3, stop)
    points = work(tmp_path / "study", settings, 3)
    assert [len(one.attempts) for one in points.values()] == [2, 1, 1]


def test_what_goes_wrong_at_a_point_is_told_and_the_others_go_on(tmp_path, caplog):
    caplog.set_level("INFO")

    def measure(number, point, earlier):
        if number == 1:
            raise UserError("no such layer")
        if number == 2:
            return result(MEASURED, costs={"bytes": 1.0}, metrics={"psnr": None})
        return formula(number, point, earlier)

    points = work(tmp_path / "study", settings_of("nsga2"), 9, measure)
    states = [one.ended.user_attrs["result"] for one in points.values()]
    assert [one["reason"] for one in states[:3]] == ["", "no such layer", "psnr has no value"]
    assert [one["state"] for one in states].count(FAILED) == 2
    assert "2 of 9: point 1, " in caplog.text
    assert len(snapshot.read(tmp_path / "study")) == 9


def test_a_study_is_of_one_command(tmp_path):
    agree(tmp_path / "study", settings_of())
    agree(tmp_path / "study", settings_of())
    with pytest.raises(UserError, match=r"was begun with other settings \(sampler\)"):
        agree(tmp_path / "study", settings_of("tpe"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(UserError, match="holds other files"):
        agree(tmp_path / "other", settings_of())


def test_a_study_lies_in_a_data_base_as_well(tmp_path):
    settings = settings_of("nsga2", batch=4)
    agree(tmp_path / "study", settings)
    store = Store(tmp_path / "study", settings, f"sqlite:///{tmp_path}/trials.db")
    points = Worker(store, settings, 6, formula, QUICK).run()
    assert outcome(points) == outcome(work(tmp_path / "alone", settings, 6))
    assert len(standings(store.trials())) == 6

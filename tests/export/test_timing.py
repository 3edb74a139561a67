"""Functions timed in turns."""

import time

from export.timing.turns import interleaved


def compute() -> None:
    sum(range(200_000))


def wait() -> None:
    compute()
    time.sleep(0.05)


def test_what_waits_takes_no_processor_time():
    """So that other work on the machine does not count where one thread computes."""
    one = interleaved({"computes": compute, "waits": wait}, 3, threads=1)
    assert max(one["waits"]) < 50
    many = interleaved({"computes": compute, "waits": wait}, 3, threads=2)
    assert min(many["waits"]) >= 50
    assert [len(times) for times in (*one.values(), *many.values())] == [3, 3, 3, 3]

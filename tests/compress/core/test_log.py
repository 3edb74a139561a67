"""Progress and warnings go to stderr by levels; results stay on stdout."""

import logging

import pytest

from compress.core.errors import UserError, command
from compress.core.program import command_parser

LOG = logging.getLogger("export.somewhere")


@command
def main(argv):
    command_parser("compress.example", "An example").parse_args(argv)
    LOG.debug("a detail")
    LOG.info("progress")
    LOG.warning("take care")
    print("result")
    return 0


@command
def mistaken(argv):
    command_parser("compress.example", "An example").parse_args(argv)
    raise UserError("what is wrong")


def call(capsys, command, *arguments):
    with pytest.raises(SystemExit):
        command(list(arguments))
    return capsys.readouterr()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ([], "progress\nwarning: take care\n"),
        (["-q"], "warning: take care\n"),
        (["--quiet"], "warning: take care\n"),
        (["-v"], "debug: a detail\nprogress\nwarning: take care\n"),
        (["--verbose"], "debug: a detail\nprogress\nwarning: take care\n"),
    ],
)
def test_levels(capsys, option, said):
    done = call(capsys, main, *option)
    assert done.err == said
    assert done.out == "result\n"


def test_a_command_that_runs_twice_says_all_once(capsys):
    call(capsys, main)
    assert call(capsys, main).err.count("progress") == 1


def test_a_handler_of_the_root_does_not_say_it_again(capsys):
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        assert call(capsys, main).err.count("progress") == 1
    finally:
        logging.getLogger().removeHandler(handler)


def test_loggers_are_left_as_they_were(capsys):
    loggers = [logging.getLogger(name) for name in ("compress", "export", "eval")]
    before = [(list(each.handlers), each.level, each.propagate) for each in loggers]
    call(capsys, main, "-v")
    assert [(list(each.handlers), each.level, each.propagate) for each in loggers] == before


def test_verbose_shows_where_a_mistake_was_found(capsys):
    assert call(capsys, mistaken).err == "error: what is wrong\n"
    said = call(capsys, mistaken, "-v").err
    assert "Traceback" in said
    assert said.endswith("error: what is wrong\n")


def test_quiet_and_verbose_exclude_each_other(capsys):
    assert "not allowed with" in call(capsys, main, "-q", "-v").err

"""What a sweep may vary: how it is typed, its points, and mistakes."""

import pytest

from compress.core.errors import UserError
from compress.search.space import check_space, parse_space, recipe_at

RECIPE = {
    "name": "a",
    "source": {"family": "osediff", "size": "nano"},
    "passes": [
        {"pass": "strip", "text": "constant", "timestep": "fold"},
        {"pass": "quantize", "method": "minmax", "weights": 8, "activations": 8},
    ],
    "export": [],
    "eval": {"data": ["embedded"], "metrics": ["psnr"]},
}


def points(*words):
    return list(parse_space(list(words))[1].points())


def test_one_value_is_an_override_and_several_vary():
    fixed, space = parse_space(["seed=3", "passes.1.weights=4,8"])
    assert fixed == ["seed=3"]
    assert list(space.points()) == [{"passes.1.weights": "4"}, {"passes.1.weights": "8"}]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1:3", [1, 2, 3]),
        ("a=2:8:3", [2, 5, 8]),
        ("a=0.1:0.3:0.1", [0.1, 0.2, 0.3]),
        ("a={pass: x, y: [1, 2]},off", ["{pass: x, y: [1, 2]}", "off"]),
        ("a='x,y',z", ["'x,y'", "z"]),
    ],
)
def test_values_of_a_key(text, values):
    assert [point["a"] for point in points(text)] == values


def test_a_range_without_steps_is_no_grid():
    with pytest.raises(UserError, match="a grid needs steps"):
        points("a=0.1:0.3")
    assert not parse_space(["a=1e-4:1e-2:log"])[1].is_finite()


def test_what_lies_below_a_pass_that_is_off_does_not_vary():
    found = points("passes.1=on,off", "passes.1.weights=4,8")
    assert found == [
        {"passes.1": "on", "passes.1.weights": "4"},
        {"passes.1": "on", "passes.1.weights": "8"},
        {"passes.1": "off"},
    ]


def test_a_condition_says_where_a_key_varies():
    found = points("passes.1.weights=4,8", "passes.1.low_rank=8,16 if passes.1.weights=4")
    assert [point.get("passes.1.low_rank") for point in found] == ["8", "16", None]


def test_the_recipe_at_a_point():
    _, space = parse_space(["passes.1=on,off", "passes.1.weights=4,8"])
    with_pass = recipe_at(RECIPE, space, {"passes.1": "on", "passes.1.weights": "4"}, "a")
    assert [step.weights for step in with_pass.passes[1:]] == [4]
    assert len(recipe_at(RECIPE, space, {"passes.1": "off"}, "a").passes) == 1
    assert len(RECIPE["passes"]) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["passes.1.weights"], "says nothing that varies"),
        (["a=0.9:0.3"], "the range is empty; give the smaller number first"),
        (["a=0:1:log"], "a logarithm needs numbers above 0"),
        (["a=1,,2"], "a choice is empty"),
        (["a={b: 1,2"], "} is missing"),
        (["a=1,2", "a=3,4"], "a stands twice"),
        (["a=1,2", "b=1,2 if c=1"], "c does not vary before it; what does: a"),
        (["a=1,2", "b=1,2 if a=3"], "a is never 3; choose from 1, 2"),
    ],
)
def test_a_mistake_is_a_sentence(words, sentence):
    with pytest.raises(UserError) as error:
        parse_space(words)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["passes.1.wieghts=4,8"], "unknown key (did you mean 'weights'?); valid keys:"),
        (["passes.1.method=minmax,best"], "passes.1.method=best: "),
        (["passes.5.weights=4,8"], "no index into a list of 2"),
        (["passes.5=on,off"], "the recipe has passes.0 to passes.1"),
        (["passes.1=on,{pass: nothing}"], "pass 'nothing' is unknown"),
        (["passes.1=on,off", "passes.1.weights=0:8:4"], "passes.1.weights=0: "),
    ],
)
def test_every_choice_is_tried_before_anything_starts(words, sentence):
    _, space = parse_space(words)
    with pytest.raises(UserError) as error:
        check_space(RECIPE, space, "a")
    assert sentence in str(error.value)


def test_a_range_ends_at_one_of_its_steps():
    [one] = parse_space(["a=0.1:0.95:0.3"])[1].dimensions
    assert (one.ends(), one.values()) == ([0.1, 0.7], [0.1, 0.4, 0.7])

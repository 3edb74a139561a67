"""What a user types and writes.

YAML in a recipe, overrides, and the sentence that each mistake gets.
"""

import os
import re
import resource
import subprocess
import sys

import pytest
from pydantic import BaseModel

from compress.core import yaml_text
from compress.core.config import choose, override, read_yaml, validate
from compress.core.errors import UserError, shown


def said(text):
    with pytest.raises(UserError) as error:
        yaml_text.parse(text, "recipe r.yaml")
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 500
    return sentence


def bomb(levels, width, merge=False):
    lines = ["x0: &a0 {k: 1}" if merge else f"x0: &a0 [{', '.join('x' * width)}]"]
    for i in range(1, levels):
        many = ", ".join([f"*a{i - 1}"] * width)
        lines.append(f"x{i}: &a{i} {{<<: [{many}]}}" if merge else f"x{i}: &a{i} [{many}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}),
        ("a: 0x1F", {"a": 31}),
        ("a: 1_000", {"a": 1000}),
        ("a: -3", {"a": -3}),
        ("a: 0.5", {"a": 0.5}),
        ("a: 1.5e-4", {"a": 1.5e-4}),
        ("a: 1e-4", {"a": "1e-4"}),
        ("a: on", {"a": True}),
        ("on: 1", {"on": 1}),
        ("1: x", {"1": "x"}),
        ("~: x", {"~": "x"}),
        ("true: x", {"true": "x"}),
        ("a: 2024-01-02", {"a": "2024-01-02"}),
        ("a: 1:30", {"a": "1:30"}),
        ("a: 010", {"a": "010"}),
        ("a: =", {"a": "="}),
        ("a:", {"a": None}),
        ("a: '5'", {"a": "5"}),
        ("a: !!int '5'", {"a": 5}),
        ("a: !!str 5", {"a": "5"}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
        ("a: {<<: [{b: 1}, {b: 2, c: 3}]}", {"a": {"b": 1, "c": 3}}),
        ("", None),
        ("# nothing", None),
    ],
)
def test_values(text, value):
    assert yaml_text.parse(text, "x") == value
    assert repr(yaml_text.parse(text, "x")) == repr(value) or "d" in value  # 1 is not True


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (bomb(11, 10), "holds more than 20,000 keys and values"),
        (bomb(9, 12, merge=True), "holds more than 20,000 keys and values"),
        (
            "a: &x '" + "x" * 4000 + "'\nb: [" + "*x," * 2000 + "]",
            "holds more than 20,000 keys and values",
        ),
        ("a: &a [*a]", r"the alias \*a stands inside of what it names"),
        ("&a {x: {y: *a}}", "stands inside of what it names"),
        ("a: &a {<<: *a}", "stands inside of what it names"),
        ("{a: " * 5000, "more than 32 deep"),
        ("[" * 5000, "more than 32 deep"),
        ("- " * 5000, "more than 32 deep"),
        ("a: 1\nb: 2\na: 3", r"the key 'a' stands twice, in lines 1 and 3; keep one"),
        ("{a: {b: 1, 'b': 2}}", "'b' stands twice"),
        ("<<: {a: 1}\n<<: {b: 1}", "'<<' stands twice"),
        ("<<: 5", "<< merges mappings only"),
        ("? [a]\n: 1", "a key is a list or a mapping"),
        ("? {a: b}\n: 1", "a key is a list or a mapping"),
        ("a: !!int abc", "'abc' is no whole number"),
        ("a: !!float abc", "'abc' is no number"),
        ("a: !!bool maybe", "'maybe' is no truth value"),
        ("a: !!null x", "'x' is not null"),
        ("a: !!map abc", "tag '!!map'"),
        ("a: !!set {b}", "tag '!!set' on a mapping"),
        ("a: !!binary aGk=", "tag '!!binary'"),
        ("a: !mine 3", "tag '!mine'"),
        ("a: !!python/object/apply:os.system [true]", "tag '!!python/object"),
        ("a: !!seq {b: 1}", "tag '!!seq' on a mapping"),
        ("a: 0x" + "f" * 5000, "too large; whole numbers"),
        ("a: " + "9" * 100_000, "too large; whole numbers"),
        ("a: 9223372036854775808", "too large; whole numbers"),
        ("a: 1.0e400", "too large for 64 bits"),
        ("a: .inf", "'.inf' is not finite"),
        ("a: -.INF", "is not finite"),
        ("a: .nan", "is not finite"),
        ("a: " + "x" * 5000, "a value has 5,000 characters"),
        ("'" + "k" * 600 + "': 1", "keys have at most 512"),
        ('a: "b\\0c"', r"the character U\+0000"),
        ('a: "\\ud800"', r"the character U\+D800"),
        ('a: "\\e[2J"', r"U\+001B"),
        ("a: b\x00c", r"the character U\+0000 in line 1"),
        ("a: b\x1b[2J", r"U\+001B"),
        ("a: \ufffe", r"U\+FFFE"),
        ("a: [", "not valid YAML.*line 1"),
        ("a: 1\n\tb: 2", "not valid YAML.*line 2"),
        ("a: *none", "undefined alias"),
        ("a: 1\n---\na: 2", "not valid YAML.*another document"),
        ("%YAML 9.9\n--- a", "not valid YAML"),
    ],
)
def test_mistakes_in_yaml(text, sentence):
    assert re.search(sentence, said(text))


def test_an_alias_is_a_copy():
    data = override(yaml_text.parse("a: &x {b: 1}\nc: *x", "x"), ["a.b=2"])
    assert data == {"a": {"b": 2}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("ä: 1".encode("latin-1"), r"no UTF-8 text \(byte 0xe4 in line 1\); save it as UTF-8"),
        (b"\n\nname: \xff", "byte 0xff in line 3"),
        ("a: 1".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        ("a: 1".encode("utf-16-be"), r"U\+0000"),
        (bytes(range(256)) * 4, "binary file"),
        (b"", "is not a mapping"),
        (b"- a", "is not a mapping"),
        (b"42", "is not a mapping"),
        (b"# " + b"x" * 300_000, "more than 256 KiB"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, content, sentence):
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_yaml(tmp_path / "r.yaml")


@pytest.mark.parametrize("name", ["x\0y", "x" * 5000, ".", "none.yaml"])
def test_names_that_no_file_has(name):
    with pytest.raises(UserError, match=r"recipe .*(does not exist|is a folder)"):
        read_yaml(name)


def test_byte_order_mark_in_any_locale(tmp_path):
    (tmp_path / "r.yaml").write_bytes("\ufeffnäme: größe".encode())
    file = str(tmp_path / "r.yaml")
    code = f"from compress.core.config import read_yaml; print(ascii(read_yaml({file!r})))"
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=plain)
    assert done.stdout.strip() == r"{'n\xe4me': 'gr\xf6\xdfe'}", done.stderr


def test_a_bomb_takes_no_memory(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for text in (bomb(11, 10), bomb(9, 12, merge=True)):
        said(text)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


@pytest.mark.parametrize(
    ("assignment", "data"),
    [
        ("a.b=2", {"a": {"b": 2}, "l": [1, {"c": 3}]}),
        ("l.0=x", {"a": {"b": 1}, "l": ["x", {"c": 3}]}),
        ("l.1.c=[5]", {"a": {"b": 1}, "l": [1, {"c": [5]}]}),
        ("l.1={}", {"a": {"b": 1}, "l": [1, {}]}),
        ('a."x.y"=2', {"a": {"b": 1, "x.y": 2}, "l": [1, {"c": 3}]}),
        ("a.'x=y'.z=2", {"a": {"b": 1, "x=y": {"z": 2}}, "l": [1, {"c": 3}]}),
        ("n.m=a=b", {"a": {"b": 1}, "l": [1, {"c": 3}], "n": {"m": "a=b"}}),
        ("a=", {"a": None, "l": [1, {"c": 3}]}),
    ],
)
def test_overrides(assignment, data):
    assert override({"a": {"b": 1}, "l": [1, {"c": 3}]}, [assignment]) == data


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("oops", "not of the form key=value"),
        ("=1", "not of the form"),
        ("a..b=1", "not of the form"),
        (".a=1", "not of the form"),
        ("a.=1", "not of the form"),
        ("", "not of the form"),
        ("a.'b=1", "not of the form"),
        ("l.7=1", r"'7' is no index into a list of 2 \(0 to 1\)"),
        ("l.-1=1", "'-1' is no index"),
        ("l.²=1", "is no index"),
        ("l." + "9" * 5000 + "=1", "is no index"),
        ("e.0=1", "it is empty"),
        ("l.x.y=1", "'x' is no index"),
        ("s.x=1", "'s' holds a single value"),
        ("s.x.y=1", "'s' holds a single value"),
        ("a.b.c=1", "'a.b' holds a single"),
        (".".join("a" * 5000) + "=1", "at most 32 parts"),
        ("a=[", "the value is not valid YAML"),
        ("a=" + "[" * 5000, "more than 32 deep"),
        ("a={b: 1, b: 2}", "'b' stands twice"),
        ("a=" + bomb(11, 10), "20,000"),
        ("a=0x" + "f" * 5000, "too large"),
        ("a=!!set {b}", "the tag"),
        ("a=\x00", r"U\+0000"),
        ("a=\ud800", r"U\+D800"),
    ],
)
def test_mistakes_in_overrides(assignment, sentence):
    with pytest.raises(UserError) as error:
        override({"a": {"b": 1}, "l": [1, {"c": 3}], "e": [], "s": 5}, [assignment])
    assert re.search(sentence, str(error.value))
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


class Numbers(BaseModel):
    count: int = 1
    rate: float = 1.0
    flag: bool = False
    weights: dict[str, float] = {}
    several: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"count": True}, "count: takes a number, got true"),
        ({"rate": False}, "rate: takes a number, got false"),
        ({"weights": {"a": True}}, r"weights\.a: takes a number"),
        ({"several": [1, True]}, r"several\.1: takes a number"),
        ({"rate": "nan"}, "rate: nan is not finite"),
        ({"weights": {"a": "1e400"}}, r"weights\.a: inf is not finite"),
        ({"count": "x" * 5000}, r"\(5,000 characters\)"),
        ({"rate": "\x1b[2J"}, r"\\x1b\[2J"),
        ([], "must be a mapping"),
        ({"several": {"a": 1}}, "several"),
        ({"flag": 3.5}, "flag"),
    ],
)
def test_what_pydantic_lets_pass(data, sentence):
    with pytest.raises(UserError) as error:
        validate(Numbers, data, "r.yaml")
    assert re.search(sentence, str(error.value))
    assert len(str(error.value)) < 400
    assert str(error.value).isprintable()


def test_numbers_as_text_are_numbers():
    assert validate(Numbers, {"rate": "1e-4", "count": "010"}, "r") == Numbers(rate=1e-4, count=10)


@pytest.mark.parametrize("name", [{}, [], {"a": 1}, 3, True])
def test_a_name_is_a_word(name):
    with pytest.raises(UserError, match=r"kind must be a word, got .*; choose one of one, two"):
        choose({"one": 1, "two": 2}, "kind", {"kind": name}, "r.yaml")


def test_sentences_are_short_and_printable():
    sentence = str(UserError(f"{'/very' * 1000}: line\nbreak, \x1b[31m, \u202e"))
    assert sentence.isprintable()
    assert len(sentence) < 300
    assert "(5,001 characters)" in sentence
    assert shown(10**5000) == "a number of 16,610 bits"
    assert shown([1] * 9) == "a list of 9"
    assert shown("a\tb") == "'a b'"

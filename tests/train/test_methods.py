"""The list of methods is true: each id is in its table, its configuration selects it, its defaults print."""

from __future__ import annotations

import json
from operator import attrgetter
from pathlib import Path

import pytest

from laconic.errors import ConfigError
from laconic.train import methods
from laconic.train.methods import (
    METHODS,
    STAGES,
    as_dict,
    find,
    measured,
    method_class,
    print_method,
    print_table,
)
from laconic.train.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
ids = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.id)


@ids
def test_a_listed_method_is_what_its_configuration_selects(method):
    settings = load_settings(ROOT / method.config)
    assert type(attrgetter(method.stage)(settings)) is method_class(method)


@ids
def test_defaults_formula_and_source_of_a_method_print(method, capsys):
    print_method(method)
    printed = capsys.readouterr().out
    for option in as_dict(method)["defaults"]:
        assert f"{option}: " in printed
    assert "Source" in printed and method.paper in printed and method.traps[0].split()[0] in printed


def test_texts_of_several_lines_print_as_a_configuration_would_have_them(capsys):
    print_method(find("anytime"))
    printed = capsys.readouterr().out
    assert 'cut_text: "...\\n\\n...\\n\\n</think>"' in printed and "think_end_text: </think>\n" in printed


@ids
def test_every_option_of_a_method_says_what_it_means(method):
    silent = [name for name, option in as_dict(method)["defaults"].items() if not option["meaning"]]
    assert not silent


def test_the_table_lists_every_method_once(capsys):
    print_table()
    printed = capsys.readouterr().out
    assert all(method.id in printed for method in METHODS)
    assert len({method.id for method in METHODS}) == len(METHODS)
    assert {method.stage for method in METHODS} <= set(STAGES)


@ids
def test_the_test_of_a_method_names_it(method):
    text = (ROOT / method.test).read_text(encoding="utf-8")
    assert method.id in text or method_class(method).__name__ in text


def test_what_was_measured_stands_beside_a_method(monkeypatch, tmp_path, capsys):
    results = [{"token_ratio": ratio, "accuracy_change": 0.02} for ratio in (0.3, 0.4)]
    for seed, result in enumerate(results, 1):
        (tmp_path / f"dot-{seed}.json").write_text(json.dumps(result))
    monkeypatch.setattr(methods, "RESULTS", tmp_path)
    assert measured(find("dot")) == ("x0.35", "+2.0") and measured(find("grpo")) == ("", "")
    assert as_dict(find("dot"))["results"] == results
    print_method(find("dot"))
    assert "tokens x0.35, accuracy +2.0 points" in capsys.readouterr().out


def test_a_class_of_the_users_is_shown_like_a_method(capsys):
    method = find("laconic.rewards.shaping.alp:Alp")
    print_method(method)
    printed = capsys.readouterr().out
    assert method.status == "yours" and "beta: " in printed and "Source" in printed and "traps" not in printed
    with pytest.raises(ConfigError, match="cannot import"):
        find("no_such_module:Alp")


def test_every_configuration_of_a_method_is_listed():
    listed = {method.config for method in METHODS}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs" / "methods").glob("*.yaml")} == listed


def test_an_unknown_method_names_the_known_ones():
    with pytest.raises(ConfigError, match="known: grpo"):
        find("dott")

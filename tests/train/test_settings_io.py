"""The generic loader: strictness, messages, overrides, and that what is written reads back equal."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import ConfigError
from laconic.train.settings_io import apply_override, build, choice, choices, dump, field_docs, read_yaml


@dataclass(frozen=True)
class Plain:
    """Nothing to set."""


@dataclass(frozen=True)
class Cut:
    alpha: float = 3.0
    """How many standard deviations."""
    margin: int = 32

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ValueError(f"alpha is {self.alpha} but must not be negative")


CUTS = {"none": Plain, "cut": Cut}


@dataclass(frozen=True)
class Inner:
    lr: float = 1e-6
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ("x",)
    limit: int | None = None
    on: bool = False
    more: dict[str, Any] = field(default_factory=dict)
    pair: tuple[int, float] = (1, 2.0)
    path: Path | None = None


@dataclass(frozen=True)
class Root:
    model: str
    inner: Inner = field(default_factory=Inner)
    cut: Any = choice(CUTS, "none")
    cuts: Any = choices(CUTS)


def refused(tree: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build(Root, tree)
    return str(caught.value)


def test_a_file_holds_only_what_differs():
    root = build(Root, {"model": "m", "inner": {"lr": 1}, "cut": {"name": "cut", "margin": 8}})
    assert root == Root("m", Inner(lr=1.0), Cut(margin=8))
    assert isinstance(root.inner.lr, float)


def test_a_section_without_a_name_sets_options_of_the_default_method():
    @dataclass(frozen=True)
    class Open:
        cut: Any = choice(CUTS, "cut")

    assert build(Open, {"cut": {"margin": 4}}) == Open(Cut(margin=4))


def test_a_method_without_options_may_be_given_by_name_alone():
    assert build(Root, {"model": "m", "cut": "cut"}).cut == Cut()


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"modle": "m"}, ["'modle'", "did you mean 'model'"]),
        ({"model": "m", "inner": {"lrr": 1}}, ["'inner.lrr'", "did you mean 'inner.lr'"]),
        ({"model": "m", "cut": {"name": "cut", "alfa": 1}}, ["'cut.alfa'", "did you mean 'cut.alpha'"]),
        ({"model": "m", "cut": {"name": "none", "alpha": 1}}, ["'cut.alpha'", "(no options)"]),
        ({"model": "m", "cut": {"name": "cutt"}}, ["cut", "'cutt'", "did you mean", "module:Class"]),
        ({"model": "m", "cut": {"alpha": 1.0}}, ["'cut.alpha'", "(no options)"]),
        ({"model": "m", "cut": 3}, ["cut must be a section with a name", "cut, none"]),
        ({"model": "m", "cut": {"name": 3}}, ["cut must be a section with a name"]),
        ({"model": "m", "cut": {"name": "no.such.module:X"}}, ["cannot import", "no.such.module"]),
        ({"model": "m", "cut": {"name": "pathlib:Path"}}, ["is not a dataclass"]),
        ({}, ["model is missing"]),
        ({"model": 3}, ["model must be text", "3 (a whole number)"]),
        ({"model": "m", "inner": 3}, ["inner must be a section"]),
        ({"model": "m", "inner": {"lr": "fast"}}, ["inner.lr must be a number", "'fast'"]),
        ({"model": "m", "inner": {"lr": True}}, ["inner.lr must be a number", "True"]),
        ({"model": "m", "inner": {"limit": 1.5}}, ["inner.limit must be a whole number", "1.5"]),
        ({"model": "m", "inner": {"on": 1}}, ["inner.on must be true or false"]),
        ({"model": "m", "inner": {"names": "x"}}, ["inner.names must be a list of text"]),
        ({"model": "m", "inner": {"names": ["x", 2]}}, ["inner.names[1] must be text"]),
        ({"model": "m", "inner": {"pair": [1]}}, ["inner.pair must be a list"]),
        ({"model": "m", "inner": {"kind": "c"}}, ["inner.kind must be one of a, b"]),
        ({"model": "m", "cut": {"name": "cut", "alpha": -1.0}}, ["cut: alpha is -1.0"]),
    ],
)
def test_an_error_names_the_dotted_key_the_value_and_what_is_expected(tree, words):
    message = refused(tree)
    assert all(word in message for word in words), message


def test_a_class_outside_the_table_is_given_by_import_path_and_keeps_it():
    tree = {"model": "m", "cut": {"name": f"{__name__}:Cut", "margin": 4}}
    assert build(Root, tree).cut == Cut(margin=4)

    @dataclass(frozen=True)
    class Open:
        cut: Any = choice({"none": Plain}, "none")

    assert dump(Open(Cut()))["cut"]["name"] == f"{__name__}:Cut"


@pytest.mark.parametrize("text", ["3e-4", "3.0e-4", "0.0003", "+3E-4", ".3e-3"])
def test_every_spelling_of_a_decimal_is_a_number_in_files_and_overrides(text, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(f"model: m\ninner: {{lr: {text}}}\n")
    assert build(Root, read_yaml(file)).inner.lr == pytest.approx(3e-4, rel=1e-12)
    tree: dict[str, Any] = {"model": "m"}
    apply_override(tree, f"inner.lr={text}")
    assert build(Root, tree).inner.lr == pytest.approx(3e-4, rel=1e-12)


def test_overrides_reach_into_sections_and_make_them():
    tree: dict[str, Any] = {"model": "m", "cut": "cut"}
    for override in ("inner.names=[p, q]", "inner.on=true", "inner.more.deep=1", "cut.alpha=2", "model=a=b"):
        apply_override(tree, override)
    assert build(Root, tree) == Root("a=b", Inner(names=("p", "q"), on=True, more={"deep": 1}), Cut(alpha=2.0))


def test_another_method_by_override_leaves_the_options_of_the_old_one_behind():
    tree: dict[str, Any] = {"model": "m", "cut": {"name": "cut", "alpha": 1.0}}
    apply_override(tree, "cut.name=cut")
    assert build(Root, tree).cut == Cut(alpha=1.0)
    apply_override(tree, "cut.name=none")
    assert build(Root, tree).cut == Plain()


@pytest.mark.parametrize("override", ["inner.lr", "=3", "inner..lr=3", "steps.x=3", "inner.lr=[1"])
def test_a_malformed_override_is_refused_with_its_text(override):
    with pytest.raises(ConfigError, match="override"):
        apply_override({"model": "m", "steps": 5}, override)


def test_a_missing_file_names_the_nearest_one_there(tmp_path):
    (tmp_path / "quickstart.yaml").write_text("model: m\n")
    with pytest.raises(ConfigError, match=r"did you mean 'quickstart\.yaml'"):
        read_yaml(tmp_path / "quikstart.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [("model: [", "not valid YAML"), ("- a\n", "must hold"), ("", "nothing"), ("a: 1\na: 2\n", "given twice")],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, words):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_yaml(file)


def test_field_docs_are_read_from_the_source():
    assert field_docs(Cut) == {"alpha": "How many standard deviations."}


finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
roots = st.builds(
    Root,
    model=texts,
    inner=st.builds(
        Inner,
        lr=finite,
        kind=st.sampled_from(["a", "b"]),
        names=st.lists(texts, max_size=3).map(tuple),
        limit=st.none() | st.integers(),
        on=st.booleans(),
        more=st.dictionaries(texts, st.integers() | finite | texts | st.none() | st.booleans(), max_size=3),
        pair=st.tuples(st.integers(), finite),
        path=st.none() | st.sampled_from([Path("a"), Path("/b/c")]),
    ),
    cut=st.just(Plain()) | st.builds(Cut, alpha=st.floats(0, 1e9), margin=st.integers()),
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(roots)
def test_what_is_written_reads_back_equal(root):
    assert build(Root, dump(root)) == root
    written = yaml.safe_dump(dump(root), sort_keys=False, allow_unicode=True)
    assert build(Root, yaml.safe_load(written)) == root


def test_a_list_of_named_sections_is_read_and_reads_back_equal() -> None:
    tree = {"model": "m", "cuts": [{"name": "cut", "alpha": 2}, "none", {"name": "cut"}]}
    root = build(Root, tree)
    assert root.cuts == (Cut(alpha=2.0), Plain(), Cut())
    plain, default = {"name": "none"}, {"name": "cut", "alpha": 3.0, "margin": 32}
    assert dump(root)["cuts"] == [{**default, "alpha": 2.0}, plain, default]
    assert build(Root, yaml.safe_load(yaml.safe_dump(dump(root)))) == root
    assert build(Root, {"model": "m"}).cuts == ()


@pytest.mark.parametrize(
    ("cuts", "words"),
    [
        ("cut", ["cuts must be a list", "'cut'"]),
        ([{"alpha": 2}], ["cuts[0] has no name", "cut, none"]),
        ([{"name": "cut"}, {"name": "cat"}], ["cuts[1]", "'cat'", "did you mean 'cut'"]),
        ([{"name": "cut", "alfa": 2}], ["cuts[0].alfa", "alpha"]),
    ],
)
def test_what_is_wrong_in_a_list_of_sections_is_named_with_its_place(cuts: Any, words: list[str]) -> None:
    message = refused({"model": "m", "cuts": cuts})
    assert all(word in message for word in words), message

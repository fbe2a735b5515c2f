"""From YAML to frozen dataclasses and back: strict, with errors that name the key and the remedy.

Rules. The dataclass owns the defaults, so a file holds only what differs. A key no dataclass knows is an error with
the nearest known name. A section whose field was made by :func:`choice` is a tagged union: its key ``name`` picks the
dataclass from a table, or ``module:Class`` imports one; :func:`choices` makes a list of such sections. Its fields
marked ``shared`` take the value that the section around it has under the same name, and are not keys of their own.
``build(type(x), dump(x)) == x`` for every settings object.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from ..errors import ConfigError

T = TypeVar("T")
Tree = dict[str, Any]
"""A configuration as plain data: nested dicts, lists and scalars."""
CUT_SAMPLING = (
    "training samples from the whole distribution; with top-p, top-k or min-p a token is drawn from a part of the "
    "vocabulary but trained as if it were drawn from all of it, and nothing corrects the ratio for the mass cut off"
)
"""Why an option that evaluation has does not exist here."""
REFUSED = {
    f"rollout.{key}": f"{CUT_SAMPLING}; delete it, and lower rollout.temperature for sharper sampling"
    for key in ("top_p", "top_k", "min_p")
}
"""Dotted keys that do not exist for a reason, and the reason."""


def choice(table: Mapping[str, type], default: str) -> Any:
    """A dataclass field whose value is one of the dataclasses in ``table``, by default ``table[default]()``."""
    return field(default_factory=lambda: table[default](), metadata={"table": table, "default": default})


def choices(table: Mapping[str, type]) -> Any:
    """A dataclass field whose value is a list of such dataclasses, by default an empty one."""
    return field(default=(), metadata={"tables": table})


def resolve(name: str, table: Mapping[str, type], where: str) -> type:
    """The class called ``name``: a key of ``table`` or an import path ``module:Class``."""
    if name in table:
        return table[name]
    if ":" not in name:
        raise ConfigError(
            f"{where}: unknown name {name!r}{_nearest(name, table)}; known: {', '.join(sorted(table))}; "
            "or give 'module:Class'"
        )
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where}: cannot import {name!r} ({error}); check the module path and PYTHONPATH") from error
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ConfigError(f"{where}: {name!r} is not a dataclass; make it one, its fields become the settings")
    return found


# reading


def read_yaml(path: Path) -> Tree:
    """The mapping in a YAML file; decimals such as ``3e-4`` are numbers and a key given twice is an error."""
    if not path.is_file():
        siblings = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"; {path.parent} holds {', '.join(siblings)}" if siblings else ""
        raise ConfigError(f"no configuration file at {path}{_nearest(path.name, siblings)}{hint}")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold 'key: value' lines, but holds {_kind(tree)}")
    return tree


def apply_override(tree: Tree, override: str) -> None:
    """Set one ``dotted.key=value`` in ``tree``; the value is read as YAML.

    Giving a section another ``name`` starts that section afresh: options of the old method mean nothing to the new.
    """
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override {override!r} is not of the form key=value, for example optim.lr=1e-5")
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML ({error})") from error
    section = tree
    for depth, key in enumerate(keys[:-1]):
        inner = section.setdefault(key, {})
        if isinstance(inner, str):  # the short form `credit: grpo`
            inner = section[key] = {"name": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {'.'.join(keys[: depth + 1])} is {inner!r}, not a section")
        section = inner
    if keys[-1] == "name" and len(keys) > 1 and section.get("name") != value:
        section.clear()
    section[keys[-1]] = value


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats, and without silently overwritten keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


# plain data -> dataclass


def build(cls: type[T], tree: Any, where: str = "", given: Tree | None = None) -> T:
    """An instance of the dataclass ``cls`` from plain data; ``where`` is its dotted path, for messages.

    ``given`` are the values of its shared fields.

    Raises:
        ConfigError: unknown or missing key, wrong type, or a value the dataclass itself refuses.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where or 'the configuration'} must be a section of keys, got {tree!r}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in own_fields(cls)}
    for key in tree:
        if key not in known:
            if reason := REFUSED.get(_join(where, key)):
                raise ConfigError(f"{_join(where, key)}: {reason}")
            raise ConfigError(
                f"unknown key {_join(where, key)!r}{_nearest(key, known, where)}; "
                f"known here: {', '.join(known) or '(no options)'}"
            )
    values: Tree = {}
    for name, spec in known.items():
        path = _join(where, name)
        if "table" in spec.metadata:
            continue
        if "tables" in spec.metadata:
            values[name] = _pick_all(tree.get(name, ()), spec.metadata["tables"], path)
        elif name in tree:
            values[name] = _cast(tree[name], hints[name], path)
        elif spec.default is not MISSING:
            values[name] = spec.default
        elif spec.default_factory is MISSING:
            raise ConfigError(f"{path} is missing; add the line '{name}: ...' or give {path}=... on the command line")
    around = dict(values)  # what a member of a union may share
    for name, spec in known.items():
        if "table" in spec.metadata:
            default = spec.metadata["default"]
            values[name] = _pick(tree.get(name, default), spec.metadata["table"], default, _join(where, name), around)
    values |= given or {}
    try:
        return cls(**values)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where or 'the configuration'}: {error}") from error


def own_fields(cls: Any) -> list[Field[Any]]:
    """The fields that are keys of a configuration."""
    return [spec for spec in fields(cls) if spec.init and not spec.metadata.get("shared")]


def _pick(value: Any, table: Mapping[str, type], default: str, where: str, around: Tree) -> Any:
    """A section without ``name`` sets options of the default method."""
    options = {"name": value} if isinstance(value, str) else value
    if not isinstance(options, Mapping) or not isinstance(options.get("name", default), str):
        raise ConfigError(f"{where} must be a section with a name out of {', '.join(sorted(table))}; got {value!r}")
    cls = resolve(options.get("name", default), table, where)
    given = {
        spec.name: around[spec.name] for spec in fields(cls) if spec.metadata.get("shared") and spec.name in around
    }
    return build(cls, {key: option for key, option in options.items() if key != "name"}, where, given)


def _pick_all(value: Any, table: Mapping[str, type], where: str) -> tuple[Any, ...]:
    """A list of sections, each with the name of its method."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} must be a list of sections, each with a name, got {value!r} ({_kind(value)})")
    members = []
    for index, item in enumerate(value):
        if isinstance(item, Mapping) and "name" not in item:
            raise ConfigError(f"{where}[{index}] has no name; give one of {', '.join(sorted(table))}")
        members.append(_pick(item, table, "", f"{where}[{index}]", {}))
    return tuple(members)


def _cast(value: Any, hint: Any, where: str) -> Any:
    """``value`` as ``hint``; the only conversions are int -> float, list -> tuple, str -> Path and str -> Enum."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        members = [a for a in arguments if a is not type(None)]
        for member in members[:-1]:
            try:
                return _cast(value, member, where)
            except ConfigError:
                continue
        if len(members) == 1:
            return _cast(value, members[0], where)
        try:
            return _cast(value, members[-1], where)
        except ConfigError:
            raise _wrong(value, hint, where) from None
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        raise ConfigError(
            f"{where} must be one of {', '.join(map(str, arguments))}; got {value!r}"
            f"{_nearest(str(value), [str(a) for a in arguments])}"
        )
    if origin in (tuple, list) or hint in (tuple, list):
        if not isinstance(value, list | tuple):
            raise _wrong(value, hint, where)
        kinds = _item_kinds(arguments, len(value), where, value, hint)
        return (origin or hint)(_cast(v, k, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise _wrong(value, hint, where)
        key_kind, item_kind = arguments or (Any, Any)
        return {_cast(k, key_kind, where): _cast(v, item_kind, _join(where, str(k))) for k, v in value.items()}
    if is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _cast_enum(value, hint, where)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(hint, type) or type(value) is not hint:
        raise _wrong(value, hint, where)
    return value


def _item_kinds(arguments: tuple[Any, ...], count: int, where: str, value: Any, hint: Any) -> Iterable[Any]:
    if not arguments:
        return [Any] * count
    if len(arguments) == 1 or arguments[-1] is Ellipsis:
        return [arguments[0]] * count
    if len(arguments) != count:
        raise _wrong(value, hint, where)
    return arguments


def _cast_enum(value: Any, hint: type[Enum], where: str) -> Enum:
    for member in hint:
        if member.value == value:
            return member
    names = [str(member.value) for member in hint]
    raise ConfigError(f"{where} must be one of {', '.join(names)}; got {value!r}{_nearest(str(value), names)}")


def _wrong(value: Any, hint: Any, where: str) -> ConfigError:
    return ConfigError(f"{where} must be {_words(hint)}, got {value!r} ({_kind(value)})")


def _words(hint: Any) -> str:
    simple = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if hint in simple:
        return simple[hint]
    arguments = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_words(argument) for argument in arguments)
    if get_origin(hint) in (tuple, list):
        return f"a list of {_words(arguments[0])}" if arguments else "a list"
    if get_origin(hint) in (dict, Mapping) or hint is dict:
        return "a section of keys"
    return getattr(hint, "__name__", str(hint))


def _kind(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a section",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _nearest(name: Any, known: Iterable[str], where: str = "") -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {_join(where, close[0])!r}?" if close else ""


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


# dataclass -> plain data


def dump(settings: Any) -> Tree:
    """The resolved settings as plain data, every field spelled out; ``build`` reads it back equal."""
    tree: Tree = {}
    for spec in own_fields(settings):
        value = getattr(settings, spec.name)
        if (table := spec.metadata.get("table")) is not None:
            tree[spec.name] = _named(value, table)
        elif (table := spec.metadata.get("tables")) is not None:
            tree[spec.name] = [_named(member, table) for member in value]
        else:
            tree[spec.name] = plain(value)
    return tree


def _named(member: Any, table: Mapping[str, type]) -> Tree:
    return {"name": name_of(member, table), **dump(member)}


def name_of(value: Any, table: Mapping[str, type]) -> str:
    """The name a union member goes by: its key in ``table``, or ``module:Class``."""
    for name, cls in table.items():
        if type(value) is cls:
            return name
    return f"{type(value).__module__}:{type(value).__qualname__}"


def plain(value: Any) -> Any:
    """The value as YAML gives it back: dataclasses and mappings as dicts, sequences as lists, paths as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return dump(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return plain(value.value)
    return str(value) if isinstance(value, Path) else value


def flatten(tree: Tree, where: str = "") -> dict[str, Any]:
    """``{"optim": {"lr": 1}}`` -> ``{"optim.lr": 1}``; an empty section stays a leaf."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = _join(where, key)
        flat |= flatten(value, path) if isinstance(value, dict) and value else {path: value}
    return flat


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring written under each field of a dataclass, base classes included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is object or not is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                text = getattr(getattr(following, "value", None), "value", None)
                if isinstance(following, ast.Expr) and isinstance(text, str):
                    docs[statement.target.id] = " ".join(text.split())
    return docs

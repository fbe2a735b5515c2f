"""What is made from a layout once and used in every layer of a model: index tables on a device."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

from ..tree_layout import TreeLayout

_made: WeakKeyDictionary[TreeLayout, dict[Hashable, Any]] = WeakKeyDictionary()


def once(layout: TreeLayout, key: Hashable, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, made on the first call for this layout and key, and gone with the layout."""
    made = _made.setdefault(layout, {})
    if key not in made:
        made[key] = make()
    return made[key]

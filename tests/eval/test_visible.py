from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.eval.visible import visible


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.characters(), max_size=30))
def test_visible_text_can_be_encoded_and_holds_no_control_character(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not [c for c in shown if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert visible(shown) == shown


def test_ordinary_text_stays_as_it_is() -> None:
    text = "3+4=7, π ≈ 3.14, 日本語,\n\tnaïve 🙂"
    assert visible(text) == text

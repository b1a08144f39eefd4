from pathlib import Path

import pytest

from jaxnets.naming import nearest, quoted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ä θ 顔 ' \" \\", "plain text, ä θ 顔 ' \" \\"),
        ("two\nlines\r\n\ttab", r"two\nlines\r\n\ttab"),
        ("\x1b[31mred\x07\x7f\x9b", r"\x1b[31mred\x07\x7f\x9b"),
        ("exe\u202egnp", r"exe\u202egnp"),
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        ("\udcff.png", r"\udcff.png"),
        (Path("a/b"), str(Path("a/b"))),
        (3, "3"),
        ("", ""),
    ],
)
def test_a_quoted_text_is_one_printable_line(text, shown):
    assert quoted(text) == shown
    assert quoted(text).isprintable()


def test_a_long_text_is_cut_between_characters_and_escapes():
    assert quoted("x" * 300) == "x" * 300
    assert quoted("x" * 301) == "x" * 299 + "…"
    assert quoted("x" * 10_000_000) == "x" * 299 + "…"
    assert quoted("\n" * 150) == r"\n" * 150
    assert quoted("\n" * 151) == r"\n" * 149 + "…"  # 150 of two characters leave no room for the ellipsis
    assert quoted("x" * 296 + "\x1b" * 9) == "x" * 296 + "…"  # no half of an escape
    assert quoted("abcdef", longest=4) == "abc…"


def test_the_nearest_name_is_offered_or_all_are():
    assert nearest("arcfase", ["arcface", "cosface"]) == "; did you mean 'arcface'?"
    assert nearest("triplet", ["arcface", "cosface"]) == "; there is arcface, cosface"

"""Small fonts, built for the tests."""

import numpy as np
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen


def bars(*heights):
    """A glyph of upright bars side by side, of these heights in thousandths of an em."""
    pen = TTGlyphPen(None)
    for i, height in enumerate(heights):
        left = 80 * i
        for point, draw in zip(
            ((left, 0), (left, height), (left + 60, height), (left + 60, 0)),
            (pen.moveTo, pen.lineTo, pen.lineTo, pen.lineTo),
            strict=True,
        ):
            draw(point)
        pen.closePath()
    return pen.glyph()


BOX = bars(900, 900, 900, 900, 900)  # for unknown characters
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def font(family, glyphs, style="Regular"):
    """A font of (character or characters, glyph) pairs."""
    names = {f"g{i}": glyph for i, (_, glyph) in enumerate(glyphs)}
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap({ord(c): f"g{i}" for i, (characters, _) in enumerate(glyphs) for c in characters})
    builder.setupGlyf({".notdef": BOX, **names})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", *names), (600, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": family, "styleName": style})
    builder.setupOS2(sTypoAscender=900, sTypoDescender=-100)
    builder.setupPost()
    return builder.font


def letters(seed):
    """A design: bars of other heights for each letter."""
    rng = np.random.default_rng(seed)
    return [(letter, bars(*rng.integers(100, 900, 5).tolist())) for letter in LETTERS]

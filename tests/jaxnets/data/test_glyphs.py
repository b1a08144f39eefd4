import dataclasses
import hashlib
import unicodedata

import numpy as np
import pytest
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont, newTable
from fontTools.ttLib.tables.ttProgram import Program
from PIL import Image, ImageFont

from experiments.run.pictures import load as load_for_study
from experiments.run.terminal import UserError
from jaxnets.data import DataError, load
from jaxnets.data.fonts import Pen, read_fonts, shipped_fonts
from jaxnets.data.glyphs import load_glyphs
from tests.jaxnets.data.built_fonts import BOX, bars, font, letters


@pytest.fixture(scope="module")
def shipped_cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def drawn(shipped_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", shipped_cache)
        return load("glyphs")


@pytest.fixture
def shipped(drawn, shipped_cache, monkeypatch):
    """The default set, which is in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", shipped_cache)
    return drawn


def characters_of(name):
    return {chr(int(code[2:], 16)) for code in name.split() if code.startswith("U+") and len(code) > 2}


def test_the_test_has_other_characters_and_other_families(shipped):
    train, test = np.unique(shipped.train.labels), np.unique(shipped.test.labels)
    assert shipped.open_set
    assert train.tolist() == list(range(len(train)))
    assert test.tolist() == list(range(len(train), len(shipped.classes)))
    assert len(train) > 1500 and len(test) > 450
    characters = [characters_of(name) for name in shipped.classes]
    assert len(set().union(*characters)) == sum(map(len, characters)) > 2000
    of_training, of_test = shipped.notes[-2:]
    families = ("DejaVu Sans ", "DejaVu Sans Mono ", "DejaVu Serif ", "STIXGeneral ")
    on_sides = [(family in of_training.replace("Sans Mono", "Mono"), family in of_test) for family in families[::2]]
    assert all(one != other for one, other in on_sides)
    for path in shipped_fonts():
        assert f"({path.name}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()})" in of_training + of_test


def test_look_alikes_are_one_class(shipped):
    of_latin = {name[0]: characters_of(name) for name in shipped.classes}
    assert of_latin["A"] >= {"A", "Α", "А"}
    assert of_latin["o"] >= {"o", "ο", "о"}
    assert {"Z", "ζ"} & of_latin["z"] == set()


def test_every_picture_is_of_something_and_there_once(shipped):
    for split, fewest in ((shipped.train, 1), (shipped.test, 2)):
        assert split.images.shape[1:] == (32, 32, 1)
        assert split.images.reshape(len(split.images), -1).any(axis=1).all()
        assert np.bincount(split.labels)[np.unique(split.labels)].min() == fewest
        keys = {(label, image.tobytes()) for image, label in zip(split.images, split.labels.tolist(), strict=True)}
        assert len(keys) == len(split.images)


def test_what_is_drawn_is_kept(shipped):
    def fail(done, total):
        raise AssertionError("it is drawn again")

    assert load("glyphs", on_progress=fail).fingerprint() == shipped.fingerprint()
    other = load_glyphs(seed=1, on_progress=fail)
    assert other.fingerprint() != shipped.fingerprint()


def test_a_study_of_classes_seen_takes_no_open_set(shipped):
    with pytest.raises(UserError, match="glyphs has other classes in its test than in training"):
        load_for_study("glyphs", size=None)


def test_an_open_set_shares_no_class(shipped):
    with pytest.raises(DataError, match="is in both splits of an open set"):
        dataclasses.replace(shipped, test=shipped.train)


@pytest.fixture
def folder(tmp_path):
    """Two designs in one family, and one in each of three others."""
    for seed, (family, style) in enumerate(
        [("One", "Thin"), ("One", "Bold"), ("Two", ""), ("Three", ""), ("Four", "")]
    ):
        font(family, letters(seed), style or "Regular").save(tmp_path / f"{seed}.ttf")
    return tmp_path


def test_a_folder_of_fonts(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    seen = []
    found = load(f"glyphs:{folder}", size=24, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]
    assert len(list((tmp_path / "home" / ".cache" / "jaxnets" / "glyphs").glob("*.npz"))) == 1
    assert found.train.images.shape[1:] == (24, 24, 1)
    # A quarter of 36 letters is for the test, in two of the four families.
    assert len(np.unique(found.train.labels)) == 27 and len(np.unique(found.test.labels)) == 9
    assert len(found.train.images) + 3 * len(found.test.images) in (27 * 3 + 3 * 9 * 2, 27 * 2 + 3 * 9 * 3)
    training, test = found.notes
    assert ("One Thin" in training) == ("One Bold" in training) != ("One Thin" in test)
    assert found.classes == load(f"glyphs:{folder}", size=24).classes != load_glyphs(str(folder), seed=3).classes


def test_what_is_no_character_is_left_out_and_counted(folder):
    nothing = TTGlyphPen(None).glyph()
    extra = [("αβ", bars(500, 500)), ("γ", nothing), ("☃", BOX), ("ÀÁÂÃÄÅÈÉÊ", bars(700, 100))]
    for path in folder.glob("*.ttf"):
        font(path.stem, letters(int(path.stem)) + extra).save(path)
    font("Copy", letters(0)).save(folder / "copy.ttf")
    found = load(f"glyphs:{folder}", size=24)
    said = " ".join(found.notes)
    assert "5 blank pictures are left out." in said
    assert "50 pictures of a box in place of a character are left out." in said
    assert "1 designs that are copies of another are left out." in said
    assert "2 characters look like another to the pixel" in said
    assert "Copy" not in said
    names = " ".join(found.classes)
    assert "U+03B1 U+03B2" in names
    assert not any(f"U+{ord(c):04X}" in names for c in "γ☃ÀÊ")


def test_designs_that_are_mostly_alike_are_one_family(tmp_path):
    half = letters(0)[:24]
    font("One", letters(0)).save(tmp_path / "1.ttf")
    font("Like One", half + letters(1)[24:]).save(tmp_path / "2.ttf")
    font("Two", letters(2)).save(tmp_path / "3.ttf")
    font("Two", letters(3), "Bold").save(tmp_path / "4.ttf")
    training, test = load(f"glyphs:{tmp_path}").notes[-2:]
    side = training if "Like One" in training else test
    assert "One Regular (1.ttf" in side and "Two" not in side


def test_a_collection_has_several_designs(folder):
    collection = TTCollection()
    collection.fonts = [TTFont(folder / "0.ttf"), TTFont(folder / "2.ttf")]
    collection.save(folder / "both.ttc")
    designs = read_fonts(folder / "both.ttc")
    assert [(design.family, design.index) for design in designs] == [("One", 0), ("Two", 1)]
    drawn = [Pen(design, 24).draw("b") for design in (*designs, *read_fonts(folder / "2.ttf"))]
    assert (drawn[1] == drawn[2]).all() and (drawn[0] != drawn[1]).any()


def test_a_picture_is_what_pillow_draws_with_the_ink_in_the_middle():
    (sans,) = read_fonts(shipped_fonts()[0])
    picture = Pen(sans, 40).draw("H")
    mask = ImageFont.truetype(shipped_fonts()[0], 32).getmask("H")
    ink = np.array(mask, np.uint8).reshape(mask.size[::-1])
    rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
    np.testing.assert_array_equal(
        picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], ink[:, ink.any(axis=0)]
    )
    assert abs(columns[0] - (39 - columns[-1])) <= 1
    # What is below the line stays there: a comma is no apostrophe.
    assert (
        np.flatnonzero(Pen(sans, 40).draw(",").any(axis=1))[0]
        > 20
        > np.flatnonzero(Pen(sans, 40).draw("'").any(axis=1))[-1]
    )


@pytest.mark.parametrize("character", ["﷽", "Ṩ", "𝌆", "Ǻ"])
def test_what_is_larger_than_the_picture_is_drawn_whole(tmp_path, character):
    wide = bars(*[300] * 25) if unicodedata.category(character) != "Lu" else bars(2500, 100)
    font("Wide", [(character, wide)]).save(tmp_path / "wide.ttf")
    (design,) = read_fonts(tmp_path / "wide.ttf")
    picture = Pen(design, 32).draw(character)
    ink = np.flatnonzero(picture.any(axis=0)), np.flatnonzero(picture.any(axis=1))
    assert 26 <= max(len(ink[0]), len(ink[1])) <= 32
    assert picture.max() > 100


def test_bad_folders_are_refused_in_a_sentence(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    Image.new("L", (4, 4)).save(empty / "no font.png")
    with pytest.raises(DataError, match="there is no font in"):
        load(f"glyphs:{empty}")
    with pytest.raises(DataError, match="no such directory"):
        load(f"glyphs:{empty / 'none'}")
    with pytest.raises(DataError, match="size is 4; give 8 to 512"):
        load(f"glyphs:{folder}", size=4)
    with pytest.raises(DataError, match="data_dir"):
        load("glyphs", data_dir="/tmp")
    broken = font("Broken", letters(9))
    broken["fpgm"] = newTable("fpgm")
    broken["fpgm"].program = Program()
    broken["fpgm"].program.fromBytecode(b"\x28")  # no instruction
    broken.save(folder / "5.ttf")
    with pytest.raises(DataError, match=r"5\.ttf cannot be read as a font \(invalid opcode\); take it out"):
        load(f"glyphs:{folder}")
    (folder / "5.ttf").write_bytes(b"\0\1\0\0 no font")
    with pytest.raises(DataError, match=r"5\.ttf cannot be read as a font .*; take it out"):
        load(f"glyphs:{folder}")
    assert "5.ttf" in load(f"glyphs:{folder}", skip_unreadable=True).notes[0]
    whole = (folder / "0.ttf").read_bytes()
    for length in range(0, len(whole), len(whole) // 7):  # wherever it is cut off
        (folder / "5.ttf").write_bytes(whole[:length])
        with pytest.raises(DataError, match="cannot be read as a font"):
            read_fonts(folder / "5.ttf")
    for path in folder.glob("[2-5].ttf"):
        path.unlink()
    with pytest.raises(DataError, match="its fonts are of one family"):
        load(f"glyphs:{folder}")
    font("Two", [("a", bars(100))]).save(folder / "2.ttf")
    with pytest.raises(DataError, match="too few characters in common, 1"):
        load(f"glyphs:{folder}")


@pytest.fixture
def sides(folder):
    """The same designs, on sides of one's own: One and Two are for training."""
    for number in range(5):
        side = folder / ("train" if number < 3 else "test")
        side.mkdir(exist_ok=True)
        (folder / f"{number}.ttf").rename(side / f"{number}.ttf")
    return folder


def test_a_folder_may_say_which_fonts_and_characters(sides):
    every = load(f"glyphs:{sides}", size=24)
    training, test = every.notes
    assert all(name in training and name not in test for name in ("One Thin", "One Bold", "Two Regular"))
    assert (len(every.train.images), len(every.test.images)) == (27 * 3, 9 * 2)
    assert every.sources.names == ("Three Regular", "Four Regular") and every.sources.enrols.all()
    assert np.bincount(every.sources.of_test).tolist() == [9, 9]
    (gallery := sides / "test" / "gallery").mkdir()
    (sides / "test" / "4.ttf").rename(gallery / "4.ttf")
    (sides / "characters.txt").write_text("\ufeffabcdef\n ghijklmnopqr ☃\n")
    some = load(f"glyphs:{sides}", size=24)
    assert set().union(*map(characters_of, some.classes)) == set("abcdefghijklmnopqr")
    _, names, enrols = some.sources
    assert [name for name, does in zip(names, enrols, strict=True) if does] == ["Four Regular"]


def test_sides_and_characters_that_do_not_fit_are_refused_in_a_sentence(sides):
    def refused(sentence):
        with pytest.raises(DataError, match=sentence):
            load(f"glyphs:{sides}")

    (sides / "characters.txt").write_text(" \n")
    refused(r"characters\.txt has no characters; name some, or delete it")
    (sides / "characters.txt").write_bytes(b"\xff\xfe")
    refused(r"characters\.txt cannot be read as text in UTF-8")
    (sides / "characters.txt").unlink()
    font("One", letters(7), "Black").save(sides / "black.ttf")
    refused(r"black\.ttf is neither in .*/train nor in its test; move it there")
    (sides / "black.ttf").rename(sides / "test" / "black.ttf")
    refused(r"train/0\.ttf and .*test/black\.ttf are of one family, by name or by look")
    for path in (sides / "test").iterdir():
        path.unlink()
    refused("test has no fonts")

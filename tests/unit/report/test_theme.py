import re

import pytest

from bascule.report.theme import PALETTE, page_style, picture_style


def luminance(colour: str) -> float:
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["ground", "panel"])
@pytest.mark.parametrize("name", ["ink", "muted", "copy", "other", "client", "lost", "dark"])
def test_what_carries_meaning_can_be_read(name, ground, scheme):
    assert contrast(PALETTE[name][scheme], PALETTE[ground][scheme]) >= 4.5


@pytest.mark.parametrize("style", [page_style, picture_style])
def test_every_colour_used_is_defined_and_none_is_fixed(style):
    sheet = str(style())
    assert set(re.findall(r"var\(--([a-z-]+)\)", sheet)) <= set(PALETTE)
    rules = sheet.split("@media print", 1)[1]
    assert not re.search(r"#[0-9a-f]{3}|rgb", rules)


@pytest.mark.parametrize("style", [page_style, picture_style])
def test_a_style_sheet_loads_nothing_and_its_braces_match(style):
    sheet = str(style())
    assert "url(" not in sheet
    assert "@import" not in sheet
    assert "</" not in sheet
    assert sheet.count("{") == sheet.count("}")
    assert "prefers-color-scheme: dark" in sheet

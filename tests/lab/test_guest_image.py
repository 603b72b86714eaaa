"""Building the guest's image from the distribution's packages: needs apt, its lists and the network."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bascule.errors import Refused
from bascule.lab import guest_python
from bascule.lab.guest_image import GuestImage, build

pytestmark = pytest.mark.lab


# A process of its own, with an umask that hides what it makes, says where the image is and what it was told.
BUILD = """
import json, os, sys
from pathlib import Path
from bascule.lab.guest_image import build
os.umask(0o077)
said = []
image = build(Path(sys.argv[1]), said.append)
print(json.dumps([str(image.kernel), str(image.initrd), said]))
"""


@pytest.fixture
def packages_here(guest_image: GuestImage, tmp_path: Path) -> Path:
    """A cache of our own, with the packages that the session's image was made of, so that none is fetched again."""
    cache = tmp_path / "cache"
    shutil.copytree(guest_image.kernel.parents[1] / "packages", cache / "packages")
    return cache


def test_two_builds_at_once_make_one_image_that_everybody_may_read(packages_here: Path) -> None:
    builders = [
        subprocess.Popen([sys.executable, "-c", BUILD, str(packages_here)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    (kernel, initrd, one_said), (*other, other_said) = (json.loads(b.communicate(timeout=300)[0]) for b in builders)
    assert [kernel, initrd] == other
    image = GuestImage(Path(kernel), Path(initrd))
    assert [*one_said, *other_said].count("building the guest image") == 1
    for path in (image.kernel, image.initrd):
        assert path.stat().st_size > 1 << 20
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(image.kernel.parent.stat().st_mode) == 0o755
    assert {path.name for path in packages_here.iterdir()} == {"packages", "packages.json", image.kernel.parent.name}
    assert not list((packages_here / "packages").glob(".*"))


def test_an_image_is_fetched_from_nothing_where_only_its_owner_may_look(tmp_path: Path) -> None:
    cache = tmp_path / "private"
    cache.mkdir(mode=0o700)
    said: list[str] = []
    image = build(cache, said.append)
    assert said[0].startswith("fetching linux-image-")
    assert image.kernel.is_file()
    assert image.initrd.is_file()
    again: list[str] = []
    assert build(cache, again.append) == image
    assert again == []


def test_a_changed_source_makes_another_image_and_a_killed_build_is_cleaned_up(
    guest_image: GuestImage, packages_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftover = packages_here / ".building-killed"
    leftover.mkdir()
    (leftover / "tree").mkdir()
    sources = tmp_path / "guest"
    shutil.copytree(guest_python.SOURCES, sources)
    (sources / "profile").write_text("PS1='changed# '\n")
    monkeypatch.setattr(guest_python, "SOURCES", sources)
    changed = build(packages_here)
    assert changed.initrd.parent.name != guest_image.initrd.parent.name
    assert b"changed# " in changed.initrd.read_bytes()
    assert not leftover.exists()


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(Refused, match="/proc/bascule"):
        build(Path("/proc/bascule"))

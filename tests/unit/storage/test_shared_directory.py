from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bascule.errors import Refused
from bascule.storage.shared_directory import Token, free_bytes, read_token, remove_token, token_name, write_token


def test_the_same_directory_shows_the_token(tmp_path: Path):
    by_another_path = tmp_path / "link"
    shared = tmp_path / "shared"
    shared.mkdir()
    by_another_path.symlink_to(shared)
    token = write_token(shared)
    assert read_token(by_another_path, token.name) == token.value
    assert stat.S_IMODE((shared / token.name).stat().st_mode) == 0o600
    remove_token(shared, token)
    assert list(shared.iterdir()) == []
    remove_token(shared, token)


def test_another_directory_does_not(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    token = write_token(tmp_path / "a")
    assert read_token(tmp_path / "b", token.name) is None


def test_tokens_are_never_the_same(tmp_path: Path):
    tokens = [write_token(tmp_path) for _ in range(10)]
    assert len({token.name for token in tokens} | {token.value for token in tokens}) == 20


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../secret", "secret", ".bascule-token-", ".bascule-token-" + "0" * 31 + "/", "", "\0",
     ".bascule-token-" + "0" * 32 + "\n"],
)  # fmt: skip
def test_only_tokens_are_read(tmp_path: Path, name: str):
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(Refused, match="not the name of a token"):
        read_token(tmp_path, name)


def test_a_link_named_as_a_token_is_not_followed(tmp_path: Path):
    (tmp_path / "secret").write_text("secret")
    token = Token(".bascule-token-" + "0" * 32, "")
    (tmp_path / token.name).symlink_to(tmp_path / "secret")
    with pytest.raises(Refused, match="cannot read"):
        read_token(tmp_path, token.name)
    (tmp_path / token.name).unlink()
    (tmp_path / token.name).mkdir()
    with pytest.raises(Refused, match="cannot read"):
        read_token(tmp_path, token.name)


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path):
    with pytest.raises(Refused, match=r"cannot write to .*nowhere"):
        write_token(tmp_path / "nowhere")


def test_free_space_is_what_the_file_system_tells(tmp_path: Path):
    usage = os.statvfs(tmp_path)
    assert 0 < free_bytes(tmp_path) <= usage.f_blocks * usage.f_frsize


def test_the_token_of_a_move_is_found_by_its_name_alone(tmp_path: Path) -> None:
    token = write_token(tmp_path, "m1")
    assert token.name == token_name("m1") != token_name("m2")
    assert write_token(tmp_path, "m2").value != token.value
    remove_token(tmp_path, Token(token_name("m1"), ""))
    assert [path.name for path in tmp_path.iterdir()] == [token_name("m2")]

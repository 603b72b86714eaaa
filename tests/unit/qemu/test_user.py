import pwd

import pytest

from bascule.errors import Refused
from bascule.qemu.user import find_user


def test_names_and_numbers_find_the_same_user() -> None:
    entry = pwd.getpwnam("daemon")
    assert find_user("daemon") == find_user(entry.pw_uid) == find_user(str(entry.pw_uid))
    assert find_user("daemon").gid == entry.pw_gid


def test_a_number_that_nobody_has_is_taken_as_it_is() -> None:
    user = find_user(64123)
    assert (user.uid, user.gid) == (64123, 64123)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(Refused, match="no-such-user"):
        find_user("no-such-user")

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.errors import Refused
from bascule.lab.names import (
    CLIENT,
    MAX_HOSTS,
    SWITCH,
    Member,
    check_host_count,
    check_name,
    is_name,
    namespace,
    qemu_uid,
    split_namespace,
)
from bascule.lab.places import Places

labs = st.from_regex(r"[a-z0-9-]{1,22}", fullmatch=True).filter(is_name)
members = st.sampled_from([CLIENT, SWITCH, "h1", "h9", "h49"])


@pytest.mark.parametrize("name", ["a", "lab", "t4194304-99", "a-h1", "x" * 20, "a--b"])
def test_names_that_are_allowed(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a-", "a_b", "a b", "a/b", "..", "x" * 21, "a\n", "é"])
def test_names_that_are_refused_with_what_is_allowed(name):
    with pytest.raises(Refused, match="cannot be called") as caught:
        check_name(name)
    assert "small letters" in caught.value.remedy


@given(labs, members)
def test_a_namespace_belongs_to_one_lab_only(lab, member):
    assert split_namespace(namespace(lab, member)) == (lab, member)


@pytest.mark.parametrize(
    "name", ["bsc-", "bsc-a", "bsc-a-h0", "bsc-a-h100", "bsc-a-x", "cni-a-h1", "bsc--h1", "bsc-A-h1"]
)
def test_namespaces_of_others_are_not_ours(name):
    assert split_namespace(name) is None


def test_every_member_has_addresses_of_its_own():
    every = [*(Member.host(number) for number in range(1, MAX_HOSTS + 1)), Member.client()]
    for of in ("name", "address", "address_v6", "link_local", "mac"):
        assert len({getattr(member, of) for member in every}) == len(every)
    assert Member.host(3).listen == "10.77.0.3:7440"
    assert Member.client().address == "10.77.0.100"


@pytest.mark.parametrize(("count", "good"), [(0, False), (1, True), (49, True), (50, False), (-1, False)])
def test_the_number_of_hosts_is_bounded_by_the_addresses_of_guests(count, good):
    assert (check_host_count(count) is None) == good


@given(labs)
def test_qemus_user_is_in_a_range_that_nobody_gives_out(lab):
    assert 1_879_048_192 <= qemu_uid(lab) < 2**31 - 1


def test_the_longest_socket_path_of_a_vm_fits():
    places = Places("x" * 20).host("h49")
    longest_name_of_a_vm = 35
    assert len(str(places.run / ("v" * longest_name_of_a_vm) / "serial.sock")) < 108
    assert len(str(places.socket)) < 108

"""What is remembered of a VM's addresses, for how long, and how many."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from bascule.network.address_book import AGE_S, MOST_ADDRESSES, MOST_NEIGHBOURS, AddressBook, Known, read_known
from bascule.network.claims import Address, Claim

IP, SECOND, IP6 = ip_address("10.77.0.50"), ip_address("10.77.0.51"), ip_address("fd77::50")
PROXIED = ip_address("10.88.0.7")
VLAN = ((0x8100, 20),)


def addresses(book: AddressBook, now_s: float = 0.0) -> list[Address]:
    return [known.address for known in book.known(now_s)]


def test_the_last_named_comes_first():
    book = AddressBook()
    for now_s, address in enumerate((IP, IP6, SECOND, IP)):
        book.note(Claim((), address), now_s)
    assert addresses(book, 3) == [IP, SECOND, IP6]


def test_an_address_is_forgotten_when_it_is_not_named_for_long():
    book = AddressBook()
    book.note(Claim((), IP), 0)
    book.note(Claim((), IP6), 100)
    assert addresses(book, AGE_S) == [IP6, IP]
    assert addresses(book, AGE_S + 1) == [IP6]
    assert addresses(book, AGE_S + 101) == []


def test_an_answer_keeps_alive_what_was_certain():
    book = AddressBook()
    book.note(Claim((), IP), 0)
    book.note(Claim((), IP, certain=False), AGE_S)
    assert addresses(book, AGE_S + 1) == [IP]


def test_an_address_that_another_machine_claims_is_forgotten():
    book = AddressBook()
    book.note(Claim((), IP), 0)
    book.note(Claim(VLAN, IP), 0)
    book.note(Claim((), IP, by_another=True), 1)
    assert [(known.vlans, known.address) for known in book.known(1)] == [(VLAN, IP)]


def test_the_one_address_that_was_answered_for_counts():
    book = AddressBook()
    book.note(Claim((), IP, certain=False), 0)
    book.note(Claim((), IP6), 0)
    assert set(addresses(book)) == {IP, IP6}


def test_a_proxy_is_not_announced_for_others():
    book = AddressBook()
    book.note(Claim((), IP), 0)
    book.note(Claim((), PROXIED, certain=False), 0)
    assert addresses(book) == [IP]
    book = AddressBook()
    book.note(Claim((), PROXIED, certain=False), 0)
    book.note(Claim((), SECOND, certain=False), 0)
    assert addresses(book) == []


def test_the_number_of_addresses_is_bounded_and_the_doubtful_go_first():
    book = AddressBook()
    book.note(Claim((), IP), 0)
    for number in range(10 * MOST_ADDRESSES):
        book.note(Claim((), ip_address("10.99.0.0") + number, certain=False), number)
    book.note(Claim((), SECOND), 1000)
    assert set(addresses(book)) == {IP, SECOND}
    for number in range(10 * MOST_ADDRESSES):
        book.note(Claim((), ip_address("10.99.0.0") + number), number)
    assert len(addresses(book)) == MOST_ADDRESSES
    assert IP not in addresses(book)


def test_the_last_neighbours_are_kept():
    book = AddressBook()
    neighbours = [ip_address("10.77.0.1") + number for number in range(5)]
    for neighbour in neighbours:
        book.note(Claim((), IP, neighbour=neighbour), 0)
    book.note(Claim((), IP), 0)
    (known,) = book.known(0)
    assert known.neighbours == tuple(reversed(neighbours))[:MOST_NEIGHBOURS]


def test_what_was_learned_goes_along_and_keeps_its_age():
    there, here = AddressBook(), AddressBook()
    there.note(Claim((), IP, neighbour=SECOND), 1000)
    there.note(Claim(VLAN, IP6), 1100)
    here.take(read_known([known.to_dict() for known in there.known(1200)]), 50_000)
    assert here.known(50_000) == there.known(1200)
    assert [known.address for known in here.known(50_000 + AGE_S - 150)] == [IP6]


def test_what_comes_with_the_vm_replaces_what_was_known_before():
    book = AddressBook()
    book.note(Claim((), IP), 10)
    book.take([Known(IP6, age_s=1)], 10)
    assert addresses(book, 10) == [IP6]


def test_too_much_from_another_host_is_bounded():
    book = AddressBook()
    book.take([Known(ip_address("10.99.0.0") + number, age_s=number) for number in range(100)], 0)
    assert addresses(book) == [ip_address("10.99.0.0") + number for number in range(MOST_ADDRESSES)]


def test_what_makes_no_sense_is_passed_over():
    good = Known(IP, VLAN, (SECOND,), 3.0)
    rows = [{"address": "nonsense"}, {}, None, 7, {"address": "224.0.0.1"}, {"address": "1.2.3.4", "vlans": [[7, 1]]}]
    rows += [{"address": "1.2.3.4", "age_s": age_s} for age_s in (float("nan"), float("inf"), -1, "old")]
    assert read_known([*rows, good.to_dict()]) == (good,)
    assert read_known({"address": str(IP)}) == read_known(None) == ()


json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.just("10.0.0.1"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["address", "vlans", "neighbours", "age_s"]), inner, max_size=4)
    ),
)


@given(st.lists(json, max_size=4))
def test_no_json_of_another_host_breaks_it(rows: list[object]):
    AddressBook().take(read_known(rows), 0)

"""Who may let a VM's vCPUs run."""

from bascule.migration.ownership import Offer, Ownership, why_not_run

MINE = Ownership("uuid", "h1", epoch=3)


def test_the_owner_with_nothing_open_may() -> None:
    assert why_not_run(MINE, "h1") is None


def test_another_host_may_not() -> None:
    assert why_not_run(MINE, "h2") == "it belongs to host h1 since epoch 3"


def test_nobody_may_whose_journal_does_not_know_the_vm() -> None:
    assert why_not_run(None, "h1") == "host h1 has no record of owning it"


def test_an_offer_that_is_not_settled_binds_the_owner() -> None:
    offered = Ownership("uuid", "h1", 3, Offer("h2", 4, "m7"))
    assert why_not_run(offered, "h1") == "it is offered to host h2 (move m7, epoch 4) and that is not settled"


def test_an_offer_gives_the_other_host_nothing_yet() -> None:
    offered = Ownership("uuid", "h1", 3, Offer("h2", 4, "m7"))
    assert why_not_run(offered, "h2") == "it belongs to host h1 since epoch 3"

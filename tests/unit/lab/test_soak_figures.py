"""The soak's verdict: what grows is found, what is noise is not."""

from __future__ import annotations

import random

import pytest

from bascule.lab.soak.figures import BOUNDS, MIB, Growth, Sample, judge, slope_per_1000

STEADY = {
    "resident_bytes": 80.0 * MIB,
    "descriptors": 19.0,
    "open_files": 5.0,
    "threads": 4.0,
    "tasks": 10.0,
    "journal_bytes": 4.0 * MIB,
}


def samples(figure: str = "tasks", per_move: float = 0.0, jitter: float = 0.0) -> list[Sample]:
    chance = random.Random(1)
    return [
        Sample(
            moves, STEADY | {figure: STEADY[figure] + max(0, moves - 500) * per_move + jitter * chance.choice((0, 1))}
        )
        for moves in range(0, 3001, 20)
    ]


def of(figure: str, found: list[Growth]) -> Growth:
    return next(growth for growth in found if growth.figure == figure)


def test_every_figure_has_its_line() -> None:
    found = judge("h1", samples(), warm_up=600)

    assert [growth.figure for growth in found] == list(STEADY)
    assert not any(growth.excess for growth in found)
    assert (
        found[0].line == "h1 resident_bytes first=80.00MiB last=80.00MiB highest=80.00MiB slope_per_1000_moves=0.00MiB"
    )


@pytest.mark.parametrize(
    ("figure", "per_move"),
    [
        ("resident_bytes", 15_728),  # what an open netlink socket used to cost a move: 15 MiB for each 1000
        ("descriptors", 0.01),
        ("open_files", 0.002),
        ("threads", 0.01),
        ("tasks", 0.01),
        ("journal_bytes", 2000),
    ],
)
def test_a_leak_is_found(figure: str, per_move: float) -> None:
    found = judge("h1", samples(figure, per_move), warm_up=600)

    assert [growth.figure for growth in found if growth.excess] == [figure]
    assert "GROWS" in of(figure, found).line
    assert of(figure, found).slope_per_1000 == pytest.approx(1000 * per_move)


@pytest.mark.parametrize("figure", list(STEADY))
def test_noise_is_no_leak(figure: str) -> None:
    step = MIB if figure.endswith("_bytes") else 1
    assert not any(growth.excess for growth in judge("h1", samples(figure, jitter=step), warm_up=600))


def test_what_the_warm_up_costs_does_not_count() -> None:
    warm = [Sample(0, STEADY | {"resident_bytes": 60.0 * MIB}), *samples()[30:]]
    assert not any(growth.excess for growth in judge("h1", warm, warm_up=600))


def test_too_few_samples_are_no_verdict() -> None:
    with pytest.raises(ValueError, match="only 1 samples of h1"):
        judge("h1", samples(), warm_up=3000)


def test_the_slope_is_that_of_the_least_squares_line() -> None:
    assert slope_per_1000([0, 100, 200], [1, 2, 3]) == pytest.approx(10)
    assert slope_per_1000([5, 5], [1, 2]) == 0
    assert {bound.figure for bound in BOUNDS} == set(STEADY)

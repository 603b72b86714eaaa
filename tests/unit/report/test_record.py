import json

import pytest

from bascule.errors import Refused
from bascule.report.record import Report, as_report


@pytest.mark.parametrize("name", ["live", "quick", "failed", "cancelled", "refused", "unknown"])
def test_a_report_goes_through_the_dataclasses_unchanged_but_for_null_lists(moves, name):
    data = getattr(moves, name)()
    written = Report.from_dict(data).to_dict()
    for key in ("rounds", "blackout", "moments", "timeline", "marks", "phases"):
        data[key] = data[key] or []
    assert json.loads(json.dumps(written)) == data


def test_unknown_keys_are_passed_over(moves):
    data = moves.live(weather="fine")
    data["rounds"][0]["colour"] = "blue"
    data["outage"]["mood"] = "good"
    assert Report.from_dict(data) == Report.from_dict(moves.live())


def test_an_empty_object_is_a_report_of_nothing():
    report = Report.from_dict({})
    assert report.vm == ""
    assert report.rounds == ()
    assert report.outage is None
    assert report.total_s is None


def test_values_of_the_wrong_type_are_as_missing(moves):
    data = moves.live(
        total_s="soon",
        blackout_ms=float("nan"),
        memory_mib=True,
        rounds={"not": "a list"},
        blackout=["not an object"],
        bytes=[],
        goals={"max_blackout_ms": float("inf"), "deadline_s": 10**400},
    )
    data["outage"]["samples"] = [[0.1, 2], [None, 3], [0.2, None], "x", [1], [0.3, "late"], [True, 1]]
    report = Report.from_dict(data)
    assert report.total_s is None
    assert report.blackout_ms is None
    assert report.memory_mib is None
    assert report.rounds == ()
    assert report.blackout == ()
    assert report.bytes is None
    assert report.goals is not None
    assert (report.goals.max_blackout_ms, report.goals.deadline_s) == (None, None)
    assert report.outage is not None
    assert report.outage.samples == ((0.1, 2), (0.2, None), (0.3, None))


def test_another_schema_is_refused_with_a_remedy(moves):
    with pytest.raises(Refused, match=r"m-7f3a.*schema 2") as caught:
        Report.from_dict(moves.live(schema=2))
    assert caught.value.remedy


def test_as_report_takes_both(moves):
    report = as_report(moves.live())
    assert as_report(report) is report

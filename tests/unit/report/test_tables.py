import re

from bascule.report import tables
from bascule.report.record import Report


def cells(table: str) -> list[str]:
    return re.findall(r"<td[^>]*>(.*?)</td>", table)


def test_the_rounds_have_their_units_in_the_head(moves):
    table = tables.rounds(Report.from_dict(moves.live()), "h2")
    assert "Rate, MiB/s" in table
    assert cells(table)[:5] == ["0.31", "1.31", "1,024.0", "196.0", "781.7"]
    assert "<details>" not in table


def test_many_rounds_are_folded_and_very_many_cut(moves):
    data = moves.live()
    data["rounds"] = [data["rounds"][0] | {"number": number} for number in range(1, 701)]
    table = tables.rounds(Report.from_dict(data), "h2")
    assert "Only the last 500 of 700 rounds." in table
    assert table.count("<tr>") == 501
    assert "<details>" in table


def test_without_rounds_there_is_no_table(moves):
    assert tables.rounds(Report.from_dict(moves.refused()), "h2") == ""
    assert tables.events(Report.from_dict(moves.refused())) == ""


def test_events_come_in_the_order_of_time(moves):
    data = moves.live(marks=[{"at_s": 3.0, "what": "later"}, {"at_s": 0.05, "what": "sooner"}])
    table = tables.events(Report.from_dict(data))
    at = [float(cell) for cell in cells(table)[::3]]
    assert at == sorted(at)
    assert table.index("sooner") < table.index("phase: copying") < table.index("later")


def test_a_move_without_a_client_has_dashes_in_the_summary(moves):
    table = tables.summary([Report.from_dict(moves.cancelled())])
    assert cells(table)[-3:] == ["\N{EN DASH}"] * 3
    assert 'href="#move-1"' in table

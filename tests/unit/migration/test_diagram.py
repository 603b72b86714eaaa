"""The diagram in the docs is the code's."""

from pathlib import Path

from bascule.migration import destination, diagram, source


def test_the_page_in_the_docs_is_up_to_date() -> None:
    page = Path(__file__).parents[3] / "docs" / "states.md"
    assert page.read_text() == diagram.page(), "run: python -m bascule.migration.diagram > docs/states.md"


def test_every_state_has_its_successors_told() -> None:
    assert set(source.SUCCESSORS) == set(source.State.__args__)
    assert set(destination.SUCCESSORS) == set(destination.State.__args__)

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from bascule.report.markup import Markup, element, escape, fragment, short


def test_text_is_escaped_and_markup_is_not():
    inner = element("b", "<i>")
    assert element("p", "a & b ", inner) == "<p>a &amp; b <b>&lt;i&gt;</b></p>"


def test_attributes():
    made = element("th", "x", class_="a", data_label='"&', aria_label=None, x=1.25, y=2.0)
    assert made == '<th class="a" data-label="&quot;&amp;" x="1.2" y="2">x</th>'


def test_elements_without_an_end_tag_close_themselves_and_others_do_not():
    assert element("rect", x=0) == '<rect x="0"/>'
    assert element("td") == "<td></td>"
    assert element("rect", element("title", "tip")) == "<rect><title>tip</title></rect>"


def test_fragments_nest():
    assert fragment("<", [Markup("<br/>"), "b"], "c") == "&lt;<br/>bc"


def test_coordinates_are_short():
    assert [short(value) for value in (1.0, -0.04, 12.345, 1e6)] == ["1", "0", "12.3", "1000000"]


@given(st.text(), st.text())
def test_any_text_gives_well_formed_xml_and_no_tag(text, value):
    made = element("p", text, title=value)
    parsed = ElementTree.fromstring(made)  # noqa: S314 - our own output
    assert len(parsed) == 0


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff")))
def test_a_text_is_read_back_as_it_was(text):
    assert (ElementTree.fromstring(element("p", text)).text or "") == text  # noqa: S314 - our own output


def test_what_xml_forbids_is_replaced():
    assert escape("a\x00b\ud800c") == "a\ufffdb\ufffdc"

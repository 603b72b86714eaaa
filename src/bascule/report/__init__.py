"""What a move was, told to people: as text, as a page, as pictures.

    record.py     the report of one move (JSON, schema 1) as frozen dataclasses
    network.py    its part on whether the network follows the VM, and how that is told
    frames.py     its part on the frames that came while the VM stood still, and how that is told
    throughput.py its part on a client's bulk TCP stream, and how that is told and drawn in text
    moments.py    what several renderings ask of a report: the blackout's place in the move, what the forecast missed
    words.py      numbers with their units, in words
    sentences.py  the sentences that the text and the page share, first of all the headline
    text.py       render_text: plain lines for terminals and logs
    html.py       render_html: one page that needs no network and no script
                  (sections.py, tables.py, theme.py, style/, markup.py)
    pictures/     the pictures, as SVG drawn by hand-made functions; among them the standalone picture of a move

Everything here is a function of the report: no clock, no network, nothing written. Words as in the rest of the project:
*blackout* is the time in which no vCPU ran, *outage* what a client saw, *round* one pass of the copy.
"""

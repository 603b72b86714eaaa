"""The pictures of a move, as SVG that needs no network, no script and no font.

    copying.py     what was left to send, and how fast it went, over the move
    client.py      a client's round trips over the move, and around the blackout
    throughput.py  what came back of a client's bulk TCP stream, likewise
    blackout.py    the blackout taken apart
    forecast.py    forecast against outcome
    comparison.py  several moves: what their clients felt
    move.py        one move on one sheet, as a file of its own

    canvas.py, plot.py   what they are drawn with

Each picture is drawn for a width, WIDE or NARROW, so that its letters stay legible on a telephone. Where the figures
for a picture are missing, its `missing` says so in a sentence.
"""

WIDE = 860
NARROW = 360

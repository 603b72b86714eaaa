"""The outage probe: asks a guest up to 10,000 times a second from outside, and records what comes back and when.

- `kinds/`: what can be asked, one stream each (ICMP, UDP, TCP, bulk TCP, HTTP...), and what they have in common
- `target`: whom to ask; `arrival`: when an answer came, by the kernel's stamp
- `pacer`, `loop`, `priority`, `ending`: one thread that asks on time, and how it is told to end
- `log`, `recorder`, `format`: samples in memory, on their way to a file, and in it
- `samples`: what one stream saw, in columns; `connection`, `note`, `throughput`, `totals`: what that means for a reader
- `__main__`: the process that asks, apart from all other work
- `session`: `ProbeSession`, which starts that process beside a move and says what the client saw

`network.outage` turns samples into the figures of a report.

Words: a *probe* is one question, a *stream* all of one kind to one target, an *answer* what came back for one, a
*pause* a time in which a probe was due and none was sent (by our own doing or the network's), a *recording* the file.
All times are nanoseconds of CLOCK_MONOTONIC.
"""

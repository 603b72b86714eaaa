from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.network.probe.kinds.http_answer import AnswerReader, NotHttpError

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 11\r\n\r\nhello\r\n\r\nxy"
EMPTY = b"HTTP/1.1 404 Not Found\r\ncontent-length:0\r\n\r\n"
NONE = b"HTTP/1.1 204 No Content\r\n\r\n"
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;name=value\r\nhello\r\nA\r\n0123\r\n\r\n89\r\n0\r\nTrailer: x\r\n\r\n"
)


@given(st.lists(st.sampled_from([PLAIN, EMPTY, NONE, HINT, CHUNKED]), max_size=6), st.data())
def test_answers_end_where_they_end_however_they_trickle_in(answers: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(answers)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = AnswerReader()
    ends = 0
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        ends += len(reader.feed(stream[begin:end]))
        whole = sum(
            1 for place, answer in enumerate(answers) if answer != HINT and len(b"".join(answers[: place + 1])) <= end
        )
        assert ends == whole


def test_statuses() -> None:
    assert AnswerReader().feed(HINT + PLAIN + EMPTY + NONE + CHUNKED) == [200, 404, 204, 200]


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil I close",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
        b"HTTP/2 200 OK\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"x" * 70_000,
    ],
)
def test_what_has_no_end_that_could_be_seen(answer: bytes) -> None:
    with pytest.raises(NotHttpError):
        AnswerReader().feed(answer)

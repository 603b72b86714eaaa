from __future__ import annotations

import http.server
import json
import socket
import socketserver
import threading

import pytest

from bascule.lab.unix_http import NoAnswerError, request


class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, json.dumps({"path": self.path}))

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(409, json.dumps({"got": json.loads(body)}))

    def do_DELETE(self):
        self.answer(200, "this is no JSON")

    def answer(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "socket"
    with socketserver.UnixStreamServer(str(path), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_status_and_json_of_success_and_refusal(path):
    assert request(path, "GET", "/v1/host") == (200, {"path": "/v1/host"})
    assert request(path, "POST", "/v1/vms", {"toml": "x"}) == (409, {"got": {"toml": "x"}})


def test_what_is_no_json_is_no_answer(path):
    with pytest.raises(NoAnswerError):
        request(path, "DELETE", "/")


def test_nobody_and_nothing_is_no_answer(tmp_path):
    with pytest.raises(NoAnswerError, match="No such file"):
        request(tmp_path / "none", "GET", "/")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        with pytest.raises(NoAnswerError, match="refused"):
            request(tmp_path / "silent", "GET", "/")
        silent.listen()
        with pytest.raises(NoAnswerError, match="timed out"):
            request(tmp_path / "silent", "GET", "/", timeout_s=0.05)

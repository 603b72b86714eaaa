"""Stands in for the agent in the lab's own tests: reads the settings, answers on the socket, ends on SIGTERM."""

from __future__ import annotations

import contextlib
import http.server
import json
import socketserver
import sys
import tomllib
from pathlib import Path

SETTINGS = tomllib.loads(Path(sys.argv[1]).read_text())
ANSWERS = {
    "/v1/host": {"name": SETTINGS["name"], "settings": SETTINGS},
    "/v1/vms": [{"name": f"vm-of-{SETTINGS['name']}", "state": "running", "memory_mib": 64}],
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = ANSWERS.get(self.path)
        content = json.dumps(answer).encode()
        self.send_response(404 if answer is None else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def address_string(self) -> str:
        return "unix socket"


with contextlib.suppress(FileNotFoundError):
    Path(SETTINGS["socket"]).unlink()
print("the stand-in for the agent listens", flush=True)
socketserver.UnixStreamServer(SETTINGS["socket"], Handler).serve_forever()

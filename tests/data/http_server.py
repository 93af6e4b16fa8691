"""A small HTTP server on loopback for the tests of downloads: ranges, and everything that may go wrong. Not a test."""

import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served, and how. `asked` are the headers of every request, in order."""

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"one"'
    ranges: bool = True
    break_after: list[int | None] = field(default_factory=list)  # bytes until the connection breaks, request by request
    statuses: list[int] = field(default_factory=list)  # answers to give before any file
    retry_after: str = ""
    length: bool = True
    asked: list[dict[str, str]] = field(default_factory=list)
    address: str = ""


def asked_from(site: Site) -> int:
    """The byte that the last request wants to go on from; 0 where it is answered with all of the file."""
    asked = site.asked[-1]
    match = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
    return int(match[1]) if match and site.ranges and asked.get("if-range", site.etag) == site.etag else 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def site(self) -> Site:
        return self.server.site

    def log_message(self, *args):
        pass

    def do_GET(self):
        site = self.site
        site.asked.append({key.lower(): value for key, value in self.headers.items()})
        status = site.statuses.pop(0) if site.statuses else 200
        body = site.files.get(self.path)
        if status == 200 and body is not None:
            self._send(body)
            return
        self._refuse(status if status != 200 else 404, {"Retry-After": site.retry_after} if site.retry_after else {})

    def _refuse(self, status, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, body):
        site, begin = self.site, asked_from(self.site)
        if begin >= len(body):
            self._refuse(416, {"Content-Range": f"bytes */{len(body)}"})
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        if site.length:
            self.send_header("Content-Length", str(len(body) - begin))
        if site.etag:
            self.send_header("ETag", site.etag)
        self.end_headers()
        limit = site.break_after.pop(0) if site.break_after else None
        self.wfile.write(body[begin:] if limit is None else body[begin : begin + limit])
        self.close_connection = limit is not None or not site.length


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that goes away is what some tests are about."""


def serve(site: Site) -> ThreadingHTTPServer:
    """Start serving `site` on a free port of loopback, in a thread."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.site = site
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    site.address = f"http://127.0.0.1:{server.server_port}"
    return server

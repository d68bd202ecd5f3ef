"""Takes orders (POST /orders), and tells which the worker has written down (GET /orders)."""

import http.server
import os
import socket


def cache(*words):
    """One command of Redis."""
    with socket.create_connection((os.environ["CACHE"], 6379), timeout=10) as connection:
        parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        connection.sendall(b"*%d\r\n" % len(parts) + b"".join(parts))
        answer = connection.makefile("rb")
        line = answer.readline()
        if line[:1] == b"-":
            raise OSError(line.decode())
        if line[:1] == b"$":
            size = int(line[1:])
            return answer.read(size) if size >= 0 else b""
        return line[1:].strip()


class Desk(http.server.BaseHTTPRequestHandler):
    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        if self.path == "/health":
            return self.answer(200, b"well\n")
        self.answer(200, cache(b"GET", b"written") + b"\n")

    def do_POST(self):
        order = self.rfile.read(int(self.headers["Content-Length"]))
        cache(b"LPUSH", b"orders", order)
        print("order", order.decode(errors="replace"))
        self.answer(202, b"taken\n")


http.server.ThreadingHTTPServer(("", 8000), Desk).serve_forever()

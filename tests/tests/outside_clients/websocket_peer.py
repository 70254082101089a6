"""A WebSocket server or client of a public library, for one address: `serve HOST:PORT` or `call HOST:PORT`.

The client prints what it did, or ends with a traceback."""

import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve as listen

LARGE = bytes(range(256)) * 4096  # a mebibyte


def echo(connection):
    for message in connection:
        if message == "close":
            connection.close(4001, "as asked")
            return
        connection.send(message)


def serve(address):
    host, port = address.rsplit(":", 1)
    with listen(echo, host, int(port), subprotocols=["echo.v1"], max_size=4 << 20) as server:
        server.serve_forever()


def call(address):
    url = f"ws://{address}/chat?room=1"
    with connect(url, subprotocols=["other", "echo.v1"], max_size=4 << 20, open_timeout=20) as connection:
        assert connection.subprotocol == "echo.v1", connection.subprotocol
        for message in ("", "hello", "\u00fcber die Grenze", b"", b"\x00\xff", LARGE, LARGE.decode("latin-1")):
            connection.send(message)
            assert connection.recv(timeout=20) == message, "not what was sent"
        connection.send(iter(["in ", "three ", "pieces"]))
        assert connection.recv(timeout=20) == "in three pieces"
        assert connection.ping().wait(20), "no pong"
        print("messages: good")
        connection.send("close")
        try:
            connection.recv(timeout=20)
            raise AssertionError("it went on")
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "as asked"), closed
        print("close: good")


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](sys.argv[2])

"""Small programs that the tests run in pods."""

from __future__ import annotations

SERVE = """
import socket
server = socket.create_server(("0.0.0.0", 80))
print("listening")
while True:
    connection, (peer, _) = server.accept()
    connection.sendall(f"{socket.gethostname()} {peer}".encode())
    connection.close()
"""
"""Says its hostname and the caller's address to whoever connects to port 80."""


def get(address: str, port: int = 80, times: int = 1) -> str:
    """A program that prints what each connection gets, or the error and whether it came within a second."""
    return f"""
import socket, time
for _ in range({times}):
    begun = time.monotonic()
    try:
        with socket.create_connection(({address!r}, {port}), timeout=5) as connection:
            print(connection.recv(100).decode())
    except OSError as error:
        print(type(error).__name__, "at once" if time.monotonic() - begun < 1 else "late")
"""


KEEP = """
import socket, threading
server = socket.create_server(("0.0.0.0", 80))
print("listening")
def echo(connection):
    while part := connection.recv(100):
        connection.sendall(part)
while True:
    threading.Thread(target=echo, args=(server.accept()[0],)).start()
"""
"""Echoes on every connection for as long as it lasts."""

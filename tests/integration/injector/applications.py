"""An application that writes down every byte that reaches it, for tests of what a probe port lets through."""

from __future__ import annotations

import socket
import ssl
import threading

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class RawApplication:
    """Answers each request with `answer`; `seen` holds what came on each connection."""

    def __init__(self, answer: bytes = ANSWER, context: ssl.SSLContext | None = None) -> None:
        self.seen: list[bytes] = []
        self.answer = answer
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                index = len(self.seen)
                self.seen.append(b"")
                while piece := connection.recv(65536):
                    self.seen[index] += piece
                    if self.seen[index].endswith(b"\r\n\r\n"):
                        connection.sendall(self.answer)
        except OSError:
            return

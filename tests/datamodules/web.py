"""A web server for tests: it says what was asked for, and can be made to fail."""

import functools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any


class Web(ThreadingHTTPServer):
    """Serves a folder.  asked: how often for each path.  failures: so many answers of each path are to go wrong.

    delay: seconds before each answer.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
        self.asked: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.delay = 0.0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(SimpleHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        self.server.asked[self.path.lstrip("/")] += 1
        time.sleep(self.server.delay)
        if self.server.failures[self.path.lstrip("/")] > 0:
            self.server.failures[self.path.lstrip("/")] -= 1
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[Web]:
    with Web(folder) as web:
        thread = Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield web
        finally:
            web.shutdown()
            thread.join()

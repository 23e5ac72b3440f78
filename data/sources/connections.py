"""HTTP connections with deadlines: a server that sends too slowly is cut off. Only http and https are allowed."""
import contextlib
import http.client
import socket
import threading
import time
import urllib.request


class Watchdog:
    """Shuts down a connection when its deadline passes. Timeouts of sockets do not: each byte starts them anew.

    with Watchdog(30) as watchdog:
        answer = open_url(request, 30, watchdog)    # headers within 30 seconds
        watchdog.extend(60)                         # so long for the next part
    """

    def __init__(self, seconds):
        self.fired = False
        self._sockets, self._stopped = [], threading.Event()
        self.extend(seconds)

    def extend(self, seconds):
        self._deadline = time.monotonic() + seconds

    def watch(self, sock):
        self._sockets.append(sock.dup())  # TLS puts another object in its place; the connection is the same

    def __enter__(self):
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        for sock in self._sockets:
            sock.close()

    def _run(self):
        while not self._stopped.wait(max(self._deadline - time.monotonic(), 0.01)):
            if time.monotonic() >= self._deadline:
                self.fired = True
                for sock in self._sockets:
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)
                return


def open_url(request, timeout, watchdog):
    """The answer to a urllib.request.Request; raises what urllib.request.urlopen does. ftp and file are not known."""
    opener = urllib.request.OpenerDirector()
    for handler in (
            urllib.request.ProxyHandler(), urllib.request.UnknownHandler(), urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPRedirectHandler(), urllib.request.HTTPErrorProcessor(), _Plain(watchdog),
            _Secure(watchdog)):
        opener.add_handler(handler)
    return opener.open(request, timeout=timeout)


def _watched(kind, watchdog):
    """A connection class of http.client that tells the watchdog of its socket."""
    class Connection(kind):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            create = self._create_connection

            def create_and_tell(*arguments, **options):
                sock = create(*arguments, **options)
                watchdog.watch(sock)
                return sock

            self._create_connection = create_and_tell

    return Connection


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, watchdog):
        super().__init__()
        self.watchdog = watchdog

    def http_open(self, request):
        return self.do_open(_watched(http.client.HTTPConnection, self.watchdog), request)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, watchdog):
        super().__init__()
        self.watchdog = watchdog

    def https_open(self, request):
        return self.do_open(_watched(http.client.HTTPSConnection, self.watchdog), request)

"""A small HTTP server for tests: answers a text at /, its environment at /env, and goes as it is told."""

from __future__ import annotations

import argparse
import http.server
import json
import os
import signal
import socket
import sys
import threading
import time


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--private-port", type=int, required=True)
    parser.add_argument("--inherit", action="store_true")
    parser.add_argument("--fail", default="")
    options = parser.parse_args()
    print(f"serving {options.text}, key {os.environ.get('SECRET_SECRET_KEY', 'none')}", flush=True)
    if options.fail == "exit":
        sys.exit("cannot serve: the disk is on fire")
    if options.fail == "silent":
        time.sleep(600)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(dict(os.environ)) if self.path == "/env" else options.text
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            """Silent."""

    private = http.server.ThreadingHTTPServer(("127.0.0.1", options.private_port), Handler)
    address = ("127.0.0.1", options.port)
    public = http.server.ThreadingHTTPServer(address, Handler, bind_and_activate=not options.inherit)
    public.daemon_threads = False
    if options.inherit:
        public.socket.close()
        public.socket = socket.socket(fileno=3)
        # Two processes hear of one connection, and only one gets it.
        public.socket.setblocking(False)
    terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    for server in (public, private):
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    terminated.wait()
    public.shutdown()
    public.server_close()


if __name__ == "__main__":
    main()

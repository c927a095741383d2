#!/usr/bin/env python3
"""Readers that nobody here wrote read a feed through three restarts of its node (kill -9).

    scripts/clients/clients.py [--binary target/debug/watershed] [--entries 100000] [httpx sseclient ws eventsource]

Each reads every entry, resumes by what its own protocol has for it (Last-Event-ID, or the cursor of the last message), and is checked
for order, gaps and duplicates. It is killed in the midst of it: when the reader has 20, 45 and 70 of a hundred.

Needs, where they are asked for: pip install httpx httpx-sse requests sseclient-py; npm install ws (NODE_PATH says where); chromium.
"""

import argparse
import http.client
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
STEP = 500
DEADLINE = 300


class Check:
    """What one reader has seen; `seen` says how many."""

    def __init__(self, entries, told):
        self.entries, self.told = entries, told
        self.seen = self.gaps = self.duplicates = 0
        self.connections = 0

    def entry(self, position, number):
        expected = self.seen + 1
        if position != number or position > expected:
            self.gaps += 1
        elif position < expected:
            self.duplicates += 1
        self.seen = max(self.seen, position)
        if self.seen % STEP == 0 or self.seen >= self.entries:
            self.told(self.report())

    def report(self):
        names = ("seen", "gaps", "duplicates", "connections")
        return {name: getattr(self, name) for name in names}


def parts(data):
    entry = json.loads(data)
    return entry["position"], entry["changes"][0]["row"]["n"]


def httpx(url, check):
    import httpx
    from httpx_sse import connect_sse

    last = None
    while check.seen < check.entries:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            with httpx.Client(timeout=30) as client, connect_sse(client, "GET", url, headers=headers) as source:
                source.response.raise_for_status()
                check.connections += 1
                for event in source.iter_sse():
                    if event.event == "message":
                        last = event.id
                        check.entry(*parts(event.data))
                        if check.seen >= check.entries:
                            return
        except httpx.HTTPError:
            time.sleep(0.05)


def sseclient(url, check):
    import requests
    import sseclient as library

    last = None
    while check.seen < check.entries:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        try:
            with requests.get(url, stream=True, headers=headers, timeout=30) as response:
                response.raise_for_status()
                check.connections += 1
                for event in library.SSEClient(response).events():
                    if event.event == "message":
                        last = event.id
                        check.entry(*parts(event.data))
                        if check.seen >= check.entries:
                            return
        except requests.RequestException:
            time.sleep(0.05)


PAGE = """<!doctype html><title>EventSource</title><script>
let seen = 0, gaps = 0, duplicates = 0, connections = 0;
const tell = () => fetch("/told", {method: "POST", body: JSON.stringify({seen, gaps, duplicates, connections})});
const source = new EventSource(URL_OF_FEED);
source.onopen = () => { connections += 1; };
source.onmessage = event => {
  const entry = JSON.parse(event.data), expected = seen + 1;
  if (entry.position !== entry.changes[0].row.n || entry.position > expected) gaps += 1;
  else if (entry.position < expected) duplicates += 1;
  seen = Math.max(seen, entry.position);
  if (seen % 500 === 0 || seen >= ENTRIES) tell();
  if (seen >= ENTRIES) source.close();
};
</script>"""


def eventsource(url, entries, told, page_port):
    """A browser's own reader, on a page of another origin, which the node lists."""
    page = PAGE.replace("URL_OF_FEED", json.dumps(url)).replace("ENTRIES", str(entries))
    done = threading.Event()

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def do_POST(self):
            report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()
            told(report)
            if report["seen"] >= entries:
                done.set()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", page_port), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    profile = tempfile.mkdtemp()
    browser = subprocess.Popen(
        [shutil.which("chromium") or "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}",
         f"http://127.0.0.1:{page_port}/"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if not done.wait(DEADLINE):
            raise SystemExit("the browser has not come to the end")
    finally:
        browser.kill()
        browser.wait()
        server.shutdown()
        shutil.rmtree(profile, ignore_errors=True)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Node:
    """A node that is only a log."""

    def __init__(self, binary, folder, page_port):
        self.binary, self.folder, self.port = binary, folder, free_port()
        with open(os.path.join(folder, "watershed.toml"), "w") as file:
            file.write(f'[node]\nname = "hub"\nlisten = "127.0.0.1:{self.port}"\n'
                       f'cors = ["http://127.0.0.1:{page_port}"]\n[log.orders]\nappend = true\n')
        self.start()

    def start(self):
        with open(os.path.join(self.folder, "node.log"), "a") as log:
            self.process = subprocess.Popen([self.binary, "run", "-c", "watershed.toml"], cwd=self.folder, stderr=log)
        until = time.time() + 60
        while time.time() < until:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5).read()
            except OSError:
                time.sleep(0.02)
        raise SystemExit("the node does not start")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def append(self, first, last):
        """One call each, one after the other."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for number in range(first, last + 1):
            body = json.dumps({"row": {"n": number, "text": "x" * 100}})
            connection.request("POST", "/v1/logs/orders/entries", body)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 201, answer.status
        connection.close()


def read(name, node, entries, page_port):
    """Runs one reader to its end, with three kills on its way."""
    url = f"http://127.0.0.1:{node.port}/v1/logs/orders/entries?after=0"
    reports, came = [], threading.Condition()

    def told(report):
        with came:
            reports.append(report)
            came.notify_all()

    def run():
        if name == "eventsource":
            eventsource(url, entries, told, page_port)
        elif name == "ws":
            reader = subprocess.Popen(["node", os.path.join(HERE, "ws.mjs"), url.replace("http", "ws"), str(entries)], stdout=subprocess.PIPE)
            for line in reader.stdout:
                told(json.loads(line))
            reader.wait()
        else:
            {"httpx": httpx, "sseclient": sseclient}[name](url, Check(entries, told))

    begun = time.time()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def reaches(count):
        with came:
            if not came.wait_for(lambda: reports and reports[-1]["seen"] >= count, DEADLINE):
                raise SystemExit(f"{name} does not come to {count}: {reports[-1:]}")

    killed_at = []
    for share in (0.20, 0.45, 0.70):
        reaches(int(entries * share))
        node.kill()
        killed_at.append(reports[-1]["seen"])
        node.start()
    reaches(entries)
    thread.join(30)
    last = reports[-1]
    fine = last["seen"] == entries and not last["gaps"] and not last["duplicates"] and last["connections"] >= 4
    mark = "ok   " if fine else "WRONG"
    print(f"{mark} {name:12} {last} killed at {killed_at}, {time.time() - begun:.1f} s", flush=True)
    return fine


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--binary", default=os.path.join(HERE, "../../target/debug/watershed"))
    arguments.add_argument("--entries", type=int, default=100_000)
    arguments.add_argument("readers", nargs="*", default=["httpx", "sseclient", "ws", "eventsource"])
    given = arguments.parse_args()
    folder, page_port = tempfile.mkdtemp(), free_port()
    node = Node(os.path.abspath(given.binary), folder, page_port)
    try:
        begun = time.time()
        node.append(1, given.entries)
        print(f"{given.entries} entries appended in {time.time() - begun:.1f} s", flush=True)
        fine = [read(name, node, given.entries, page_port) for name in given.readers]
    finally:
        node.kill()
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()

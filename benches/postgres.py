"""Throwaway PostgreSQL clusters for the benches, with nothing but Python's standard library.

Whatever is started here ends with this process, also when that is killed.
"""

import glob
import os
import pwd
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

DEADLINE_S = 60
# Runs a program, says its process id, and ends it when stdin ends: on close, or when this process has died. The signal
# and the folder to remove, if any, are the first two arguments.
WATCH = 'end=$1 folder=$2; shift 2; "$@" </dev/null >&2 & echo $!; exec >/dev/null; cat; kill -$end $! 2>/dev/null; wait $!; ' \
    'if [ -n "$folder" ]; then cd /; rm -rf "$folder"; fi'


class Failure(Exception):
    """What went wrong, for people."""


class Process:
    """A program that does not outlive us. Its output goes to the file `log`."""

    def __init__(self, command, log, end="INT", folder="", user=None):
        self.log = log
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        with open(log, "ab") as out:
            self.watch = subprocess.Popen(
                ["sh", "-c", WATCH, "sh", end, folder, *command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, cwd=os.path.dirname(log),
                env={**os.environ, "LC_ALL": "C.UTF-8"}, start_new_session=True, **as_user)
        self.pid = int(self.watch.stdout.readline())

    def runs(self):
        try:
            return open(f"/proc/{self.pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
        except FileNotFoundError:
            return False

    def cpu_s(self):
        """Seconds of CPU so far, its own and the kernel's for it."""
        fields = open(f"/proc/{self.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self):
        """The most that was resident so far."""
        return int(re.search(r"VmHWM:\s+(\d+) kB", open(f"/proc/{self.pid}/status").read())[1]) / 1024

    def tail(self):
        return open(self.log, errors="replace").read()[-2000:]

    def close(self):
        self.watch.stdin.close()
        try:
            self.watch.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            if self.runs():
                os.kill(self.pid, signal.SIGKILL)
            self.watch.wait()
        self.watch.stdout.close()


class Connection:
    """A session over a server's socket: one statement at a time, answers as text."""

    def __init__(self, path, database):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.buffer = bytearray()
        words = b"user\0postgres\0database\0" + database.encode() + b"\0\0"
        self.socket.sendall(struct.pack("!ii", 8 + len(words), 196608) + words)
        self.answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def take(self, count):
        while len(self.buffer) < count:
            chunk = self.socket.recv(65536)
            if not chunk:
                raise Failure("the server closed the connection")
            self.buffer += chunk
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def answer(self):
        """Rows until the server is ready again."""
        rows, error = [], None
        while True:
            kind, length = struct.unpack("!ci", self.take(5))
            body = self.take(length - 4)
            if kind == b"D":
                rows.append(self.row(body))
            elif kind == b"E":
                fields = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
                error = fields.get(b"M", "an error without words")
            elif kind == b"Z":
                if error:
                    raise Failure(error)
                return rows

    @staticmethod
    def row(body):
        values, at = [], 2
        for _ in range(struct.unpack_from("!h", body)[0]):
            length = struct.unpack_from("!i", body, at)[0]
            values.append(None if length < 0 else body[at + 4:at + 4 + length].decode())
            at += 4 + max(length, 0)
        return values

    @staticmethod
    def message(kind, body):
        return kind + struct.pack("!i", len(body) + 4) + body

    def query(self, sql):
        self.socket.sendall(self.message(b"Q", sql.encode() + b"\0"))
        return self.answer()

    def one(self, sql):
        return self.query(sql)[0][0]

    def prepare(self, sql):
        """The statement without a name, with one bigint parameter."""
        body = b"\0" + sql.encode() + b"\0" + struct.pack("!hi", 1, 20)
        self.socket.sendall(self.message(b"P", body) + self.message(b"S", b""))
        self.answer()

    def finds(self, number):
        """Whether the prepared statement has a row for the number. As few steps as can be: it is called while time counts."""
        bind = b"\0\0" + struct.pack("!hhhiqh", 1, 1, 1, 8, number, 0)
        request = self.message(b"B", bind) + self.message(b"E", b"\0\0\0\0\0") + self.message(b"S", b"")
        self.socket.sendall(request)
        answer = self.socket.recv(65536)
        while answer[-6:-1] != b"Z\0\0\0\5":
            answer += self.socket.recv(65536)
        if answer[:1] == b"E":
            raise Failure(answer.decode(errors="replace"))
        return b"SELECT 1\0" in answer


def binaries():
    """Where the server's programs are: the newest of /usr/lib/postgresql, else on PATH."""
    found = [path for path in glob.glob("/usr/lib/postgresql/*/bin") if os.path.exists(path + "/initdb")]
    if found:
        return max(found, key=lambda path: float(path.split("/")[-2]))
    initdb = shutil.which("initdb")
    if not initdb:
        raise Failure("no initdb found: install PostgreSQL's server (apt-get install postgresql-15)")
    return os.path.dirname(os.path.realpath(initdb))


def unprivileged():
    """The user that a server runs as when we are root, which PostgreSQL refuses."""
    if os.getuid():
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    raise Failure("neither a user postgres nor nobody to run the servers as")


class Cluster:
    """A server of its own in a new folder below `place`, on a free port of 127.0.0.1 and on a socket."""

    def __init__(self, place, settings):
        self.folder = tempfile.mkdtemp(prefix="watershed-pg-", dir=place)
        self.server = None
        try:
            self.start(settings)
        except BaseException:
            self.close()
            raise

    def start(self, settings):
        user = unprivileged()
        if user:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        data, log = f"{self.folder}/data", f"{self.folder}/server.log"
        made = Process([f"{binaries()}/initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-D", data],
                       log, user=user)
        while made.runs():
            time.sleep(0.05)
        made.close()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        fixed = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder}
        given = [word for name, value in {**settings, **fixed}.items() for word in ("-c", f"{name}={value}")]
        self.server = Process([f"{binaries()}/postgres", "-D", data, *given], log, "QUIT", folder=self.folder, user=user)
        until("the server answers", self.answers, self.server)

    def answers(self):
        try:
            with self.connect("postgres"):
                return True
        except (OSError, Failure):
            return False

    def connect(self, database):
        return Connection(f"{self.folder}/.s.PGSQL.{self.port}", database)

    def run(self, database, *statements):
        with self.connect(database) as connection:
            for statement in statements:
                connection.query(statement)

    def one(self, database, sql):
        with self.connect(database) as connection:
            return connection.one(sql)

    def url(self, database):
        """Over the socket."""
        return f"postgres://postgres@/{database}?host={self.folder.replace('/', '%2F')}&port={self.port}"

    def words(self, database):
        """The same in libpq's words."""
        return f"host={self.folder} port={self.port} user=postgres dbname={database}"

    def close(self):
        if self.server:
            self.server.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def until(what, condition, *processes, deadline_s=DEADLINE_S, pause_s=0.02):
    """Waits until it is so; fails when a process that it depends on ends, or after the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        for process in processes:
            if not process.runs():
                raise Failure(f"{what}: the process ended\n{process.tail()}")
        if time.monotonic() > end:
            raise Failure(f"{what}: not within {deadline_s} s\n" + "\n".join(process.tail() for process in processes))
        time.sleep(pause_s)

"""Starts everything in order, starts again what dies, stops everything in order."""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from devstack.children import Child, make_child, make_children, stop_together
from devstack.demo import announcement, parse_seed, write_demo
from devstack.errors import DevstackError
from devstack.layout import Layout, Surroundings, choose_ports, manage
from devstack.lock import FolderLock
from devstack.parent import parent_was_interrupted
from devstack.postgres import ROLE, Postgres
from devstack.private import private_folder
from devstack.process import last_line
from devstack.readiness import answers_ok
from devstack.schema import MigrationMark
from devstack.server import Server
from devstack.valkey import Valkey

POLL_SECONDS = 0.05
READY_SECONDS = 90.0
# Dying this often before all are ready is no bad luck.
HOPELESS_DEATHS = 4
SETTLED_SECONDS = 3.0
# What still takes calls goes first, then what works off what the calls left, then what they called.
STOP_ORDER = (("gateway", "console"), ("worker", "beat", "drain"), ("sample-upstream",))


class Stopped(Exception):
    """Somebody asked us to stop."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Supervisor:
    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.lock = FolderLock(layout.var)
        self.servers: list[Server] = []
        self.children: dict[str, Child] = {}
        self.due: dict[str, float] = {}
        self.stops_asked = 0

    def run(self) -> None:
        """Returns when it was asked to stop and everything has ended."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)
        self.lock.acquire()
        try:
            self.start()
            self.watch()
        except Stopped:
            say("Stopping")
        finally:
            self.stop()
            self.lock.release()

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stops_asked += 1

    def pause(self) -> None:
        """A moment's wait. Raises Stopped when we were asked to stop."""
        if self.stops_asked or parent_was_interrupted():
            raise Stopped
        time.sleep(POLL_SECONDS)

    def start(self) -> None:
        ports = choose_ports()
        database_url = self.server_url("DATABASE_URL", Postgres)
        redis_url = self.server_url("REDIS_URL", Valkey)
        surroundings = Surroundings(self.layout, ports, database_url, redis_url)
        surroundings.announce_servers()
        self.children = make_children(surroundings, [self.lock.descriptor])
        mark = MigrationMark(self.layout.root, self.postgres_folder())
        if mark.fits():
            self.start_children()
        say("Migrating the database")
        self.migrate(surroundings, mark)
        self.start_children()
        seeded = self.seed(surroundings)
        self.wait_until_ready()
        demo = write_demo(surroundings, seeded)
        say(announcement(demo, self.layout.demo_file))

    def migrate(self, surroundings: Surroundings, mark: MigrationMark) -> None:
        """The audit trail is not the application's role's, which therefore cannot migrate it: it is lent meanwhile."""
        changed = not mark.fits()
        if changed and mark.known:
            self.guard_audit(surroundings, "--back")
        self.run_command(surroundings, "migrate", "--noinput")
        if changed:
            self.guard_audit(surroundings)
        mark.set()

    def guard_audit(self, surroundings: Surroundings, *options: str) -> None:
        """Only in a database of ours: in another one it is for whoever has its superuser."""
        for server in self.servers:
            if isinstance(server, Postgres):
                as_superuser = replace(surroundings, database_url=server.administration_url)
                self.run_command(as_superuser, "guard_audit", "--application-role", ROLE, *options)

    def server_url(self, variable: str, kind: type[Postgres] | type[Valkey]) -> str:
        """The one given by the environment, else an embedded one, started."""
        given = os.environ.get(variable)
        if given:
            return given
        name = kind.__name__.lower()
        server = kind(self.layout.var / name, log=self.layout.log(name), inherit=[self.lock.descriptor])
        say(f"Starting {server.name}")
        self.servers.append(server)
        server.start()
        return server.url

    def start_children(self) -> None:
        """Those that were not started yet."""
        fresh = [child for child in self.children.values() if not child.started]
        if fresh:
            say("Starting " + ", ".join(child.name for child in fresh))
        for child in fresh:
            child.start()

    def seed(self, surroundings: Surroundings) -> dict[str, Any]:
        """It finds what it told before in the file that we write: passwords and key are at rest as hashes."""
        known = str(self.layout.demo_file)
        output = self.run_command(
            surroundings, "seed_demo", "--upstream", surroundings.upstream_url, "--state", known
        )
        seeded = parse_seed(output)
        output.unlink()  # it tells passwords and a key, and people send logs around
        return seeded

    def postgres_folder(self) -> Path | None:
        return next((server.folder for server in self.servers if isinstance(server, Postgres)), None)

    def run_command(self, surroundings: Surroundings, name: str, *arguments: str) -> Path:
        """Run a command of the application to its end; its output, in a file of this run alone."""
        log = self.layout.log(name)
        log.unlink(missing_ok=True)
        child = make_child(surroundings, name, manage(name, *arguments), [self.lock.descriptor])
        child.start()
        try:
            while child.exit_code is None:
                self.restart_the_dead()
                self.pause()
        finally:
            child.kill()
        if child.exit_code != 0:
            raise DevstackError(f"manage.py {name} failed: {last_line(log)} (see {log})")
        return log

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        for child in self.children.values():
            while not is_ready(child):
                self.restart_the_dead()
                if time.monotonic() > deadline or child.backoff.deaths >= HOPELESS_DEATHS:
                    raise DevstackError(
                        f"{child.name} does not start: {last_line(child.log)} (see {child.log})"
                    )
                self.pause()

    def watch(self) -> None:
        while True:
            self.restart_the_dead()
            self.pause()

    def restart_the_dead(self) -> None:
        for server in self.servers:
            if not server.running:
                say(f"{server.name} ended; starting it again")
                server.start()
        for child in self.children.values():
            self.restart_if_dead(child)

    def restart_if_dead(self, child: Child) -> None:
        if child.exit_code is None:
            return
        if child.name not in self.due:
            wait = child.backoff.died()
            when = f"in {wait:.1f} s" if wait else "now"
            say(f"{child.name} ended ({describe(child.exit_code)}); starting it again {when}: {child.log}")
            self.due[child.name] = time.monotonic() + wait
        if time.monotonic() >= self.due[child.name]:
            del self.due[child.name]
            # Whatever it forked must not hold its port.
            child.kill()
            child.start()

    def stop(self) -> None:
        for names in STOP_ORDER:
            stop_together(
                [self.children[name] for name in names if name in self.children],
                impatient=lambda: self.stops_asked > 1,
            )
        for server in reversed(self.servers):
            server.stop()
        self.layout.servers_file.unlink(missing_ok=True)


def is_ready(child: Child) -> bool:
    """It answers; where there is nothing to ask, it has outlived the moment in which a start fails."""
    if not child.running:
        return False
    if child.ready_url is not None:
        return answers_ok(child.ready_url)
    return child.age > SETTLED_SECONDS


def describe(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    return signal.Signals(-exit_code).name


def main(layout: Layout) -> int:
    try:
        private_folder(layout.var)
        Supervisor(layout).run()
    except DevstackError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or layout.var}: {error.strerror}\n")
        return 1
    return 0

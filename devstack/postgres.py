"""PostgreSQL from a wheel, on loopback, with its data under one folder."""

import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psycopg2
from psycopg2 import sql

from devstack.binaries import postgres_binaries
from devstack.errors import DevstackError
from devstack.private import private_folder, write_private
from devstack.process import Account, last_line, spawn
from devstack.server import Server

SUPERUSER = "postgres"
# The application's role is no superuser, so nothing can come to depend on being one.
ROLE = DATABASE = "marketplace"
UNPRIVILEGED_USERS = ("postgres", "nobody")
# The data folder as its process sees it: works although the folders above it are closed to that process.
HERE = "/proc/self/cwd"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "on",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    # The error is told; the statement would tell its values, and one may be a password typed as a name.
    "log_min_error_statement": "panic",
}


def server_account(data: Path) -> Account | None:
    """Whom to run as: ourselves, but never root. Data that exists keeps its owner."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return Account(uid=data.stat().st_uid, gid=data.stat().st_gid)
    for name in UNPRIVILEGED_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(uid=entry.pw_uid, gid=entry.pw_gid)
    return Account(uid=65534, gid=65534)


class Postgres(Server):
    name = "PostgreSQL"
    # Fast shutdown; SIGTERM would wait until every client has gone.
    stop_signal = signal.SIGINT

    def __init__(
        self,
        folder: Path,
        *,
        log: Path | None = None,
        inherit: Sequence[int] = (),
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(folder, log=log, inherit=inherit)
        self.settings = SETTINGS | (settings or {})
        self._binaries = Path()
        self._passwords: dict[str, str] = {}

    @property
    def url(self) -> str:
        return self._url(ROLE, DATABASE)

    @property
    def superuser_url(self) -> str:
        return self._url(SUPERUSER, "postgres")

    @property
    def administration_url(self) -> str:
        """The application's database, for a superuser."""
        return self._url(SUPERUSER, DATABASE)

    @property
    def superuser_password(self) -> str:
        return self._passwords[SUPERUSER]

    def _url(self, role: str, database: str) -> str:
        return f"postgresql://{role}:{self._passwords[role]}@127.0.0.1:{self.port}/{database}"

    def prepare(self) -> None:
        self._binaries = postgres_binaries()
        self._passwords = self._kept_passwords()
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._drop_foreign_pid_file()

    def _kept_passwords(self) -> dict[str, str]:
        path = self.folder / "passwords.json"
        if not path.exists():
            if self.data.exists():
                raise DevstackError(f"{path} is gone and the data beside it is locked: remove {self.folder}")
            made = {role: secrets.token_hex(24) for role in (SUPERUSER, ROLE)}
            write_private(path, json.dumps(made))
        kept: dict[str, str] = json.loads(path.read_text())
        return kept

    def _initialise(self) -> None:
        """In a folder beside the final one: an interrupted initdb leaves nothing that looks complete."""
        fresh = self.folder / "data.new"
        for leftover in (fresh, self.data):
            shutil.rmtree(leftover, ignore_errors=True)
        account = server_account(fresh)
        private_folder(fresh)
        if account is not None:
            os.chown(fresh, account.uid, account.gid)
        self._initdb(fresh, account)
        fresh.rename(self.data)

    def _initdb(self, fresh: Path, account: Account | None) -> None:
        password = os.memfd_create("password", 0)  # a file that only a process handed its descriptor can read
        try:
            os.write(password, self._passwords[SUPERUSER].encode() + b"\n")
            command: list[str | Path] = [
                self._binaries / "initdb", "-D", HERE, "-U", SUPERUSER, "--auth=scram-sha-256",
                f"--pwfile=/proc/self/fd/{password}", "--encoding=UTF8", "--locale=C", "--no-instructions",
            ]  # fmt: skip
            process = spawn(
                command, cwd=fresh, log=self.log, env=self._environment(), account=account, inherit=[password]
            )
            code = process.wait()
        finally:
            os.close(password)
        if code != 0:
            raise DevstackError(f"PostgreSQL's initdb failed: {last_line(self.log)} (see {self.log})")

    def _environment(self) -> dict[str, str]:
        """Nothing of the caller's: PGDATA, PGPORT and the like would be obeyed."""
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

    def _drop_foreign_pid_file(self) -> None:
        """After a crash of the machine its number may be a stranger's, and PostgreSQL would not start."""
        path = self.data / "postmaster.pid"
        try:
            name = Path(f"/proc/{path.read_text().split()[0]}/comm").read_text().strip()
        except (OSError, IndexError):
            return
        if name != "postgres":
            path.unlink()

    def launch(self) -> subprocess.Popen[bytes]:
        settings = self.settings | {"port": str(self.port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return spawn(
            [self._binaries / "postgres", "-D", HERE, *options],
            cwd=self.data,
            log=self.log,
            env=self._environment(),
            account=server_account(self.data),
            # Stops at once and leaves recovery to the next start; its children follow it.
            death_signal=signal.SIGQUIT,
            inherit=self.inherit,
        )

    def answers(self) -> bool:
        try:
            psycopg2.connect(self.superuser_url, connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    def finish(self) -> None:
        """The application's role and database, where a first start has not made them yet."""
        connection = psycopg2.connect(self.superuser_url)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE])
                if cursor.fetchone() is None:
                    statement = sql.SQL("CREATE ROLE {role} LOGIN CREATEDB PASSWORD %s")
                    role = statement.format(role=sql.Identifier(ROLE))
                    cursor.execute(role, [self._passwords[ROLE]])
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
                if cursor.fetchone() is None:
                    names = {"database": sql.Identifier(DATABASE), "owner": sql.Identifier(ROLE)}
                    cursor.execute(sql.SQL("CREATE DATABASE {database} OWNER {owner}").format(**names))
        finally:
            connection.close()

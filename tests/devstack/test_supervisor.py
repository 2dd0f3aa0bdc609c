"""`make run`: everything up, what dies comes back, and nothing is left whatever ends it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import redis

from devstack.lock import FolderLock
from devstack.ports import free_port, is_free
from devstack.postgres import Postgres
from devstack.readiness import answers_ok
from devstack.valkey import Valkey
from tests.harness.waiting import wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
STUB = Path(__file__).resolve().parent / "stub"
# The tests' own servers are not for it: it has to start some.
NOT_PASSED_ON = (
    "DATABASE_URL",
    "REDIS_URL",
    "SECRET_KEY",
    "KEY_PEPPERS",
    "CREDENTIAL_KEYS",
    "SPOOL_DIR",
    "DJANGO_SETTINGS_MODULE",
)


def three_ports() -> int:
    """The first of three free ports in a row: gateway, console and sample upstream."""
    return next(
        port for port in iter(free_port, None) if all(is_free(port + further) for further in range(3))
    )


class Run:
    """A supervisor with a stub for an application."""

    def __init__(self, folder: Path, command: list[str] | None = None, **more: str) -> None:
        self.var = folder / "var"
        self.port = three_ports()
        self.output = folder / "output"
        # A copy, so that nothing it leaves is left in the checkout.
        stub = shutil.copytree(STUB, folder / "stub", dirs_exist_ok=True) if not command else STUB
        own = [sys.executable, "-m", "devstack", "--root", str(stub), "--var", str(self.var)]
        env = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command or own,
                env={**env, "PORT": str(self.port), **more},
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Tests that run in the background of a shell ignore SIGINT, and whatever they start would too.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def wait_until_ready(self) -> None:
        wait_for(lambda: "READY" in self.said or self.process.poll() is not None, seconds=60)
        assert f"READY http://127.0.0.1:{self.port}\n" in self.said

    def wait_for_the_end(self) -> int:
        code = self.process.wait(40)
        assert self.processes() == {}
        return code

    def processes(self) -> dict[int, str]:
        """Everything that has a file of our folder open, or was started for it."""
        return {pid: command for pid, command in all_processes() if self.owns(pid, command)}

    def owns(self, pid: int, command: str) -> bool:
        try:
            links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            return False
        return any(link.startswith(str(self.var)) for link in links) or str(self.var) in command

    def pid_of(self, part: str) -> int:
        """The first process with `part` in its command line: a main process, not what it forked."""
        return min(pid for pid, command in self.processes().items() if part in command)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        wait_for(lambda: not self.processes())


def all_processes() -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield int(folder.name), (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Iterator[Run]:
    started = Run(folder)
    started.wait_until_ready()
    yield started
    if started.process.poll() is None:
        started.kill()


def refused(run: Run) -> str:
    """What it said before it ended with exit code 1: one line."""
    assert run.wait_for_the_end() == 1
    assert run.said.count("\n") == 1
    return run.said


def test_ready_says_where_everything_is_and_a_second_run_keeps_the_data(run: Run, folder: Path) -> None:
    demo = json.loads((run.var / "demo.json").read_text())
    base_url, console_url = f"http://127.0.0.1:{run.port}", f"http://127.0.0.1:{run.port + 1}"
    assert (demo["base_url"], demo["console_url"]) == (base_url, console_url)
    assert (demo["admin_user"], demo["api_key"]) == ("admin", "mk_test_1")
    assert f"curl -sS {base_url}/api/v1/consume/s1 -H 'Authorization: Bearer mk_test_1'" in run.said
    assert all(answers_ok(url) for url in (base_url, console_url, demo["sample_upstream_url"] + "/models"))
    servers = json.loads((run.var / "servers.json").read_text())
    private = ("demo.json", "servers.json", "secrets.json")
    assert [(run.var / name).stat().st_mode & 0o777 for name in private] == [0o600] * 3
    with psycopg2.connect(servers["database_url"]) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 1")
    connection.close()

    run.process.send_signal(signal.SIGTERM)
    assert run.wait_for_the_end() == 0
    assert not (run.var / "servers.json").exists()

    again = Run(folder)
    try:
        again.wait_until_ready()
        assert json.loads((run.var / "servers.json").read_text())["key_peppers"] == servers["key_peppers"]
        with psycopg2.connect(servers["database_url"]) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM kept")
            assert cursor.fetchone() == (1,)
        connection.close()
        again.process.send_signal(signal.SIGINT)
        assert again.wait_for_the_end() == 0
    finally:
        again.kill()


def test_a_killed_supervisor_leaves_nothing_and_its_folder_can_be_used_again(run: Run) -> None:
    assert len(run.processes()) >= 9
    run.process.kill()
    run.process.wait()
    wait_for(lambda: not run.processes())
    lock = FolderLock(run.var)
    assert lock.try_acquire()
    lock.release()


def test_what_is_killed_comes_back(run: Run) -> None:
    servers = json.loads((run.var / "servers.json").read_text())
    gateway = f"http://127.0.0.1:{run.port}"
    for part in ("config.gateway", "drain_usage", "config.wsgi", "worker", "beat"):
        old = run.pid_of(part)
        os.kill(old, signal.SIGKILL)
        wait_for(lambda old=old, part=part: newer(run, part, old))  # type: ignore[misc]
    wait_for(lambda: answers_ok(gateway))
    os.kill(run.pid_of("valkey-server"), signal.SIGKILL)
    wait_for(lambda: answers(servers["redis_url"]))
    for line in ("gateway ended (SIGKILL); starting it again now", "Valkey ended; starting it again"):
        assert line in run.said


def newer(run: Run, part: str, old: int) -> bool:
    return any(pid != old and part in command for pid, command in run.processes().items())


def answers(url: str) -> bool:
    try:
        return bool(redis.Redis.from_url(url).ping())
    except redis.ConnectionError:
        return False


def test_no_log_tells_the_secrets_of_the_sample_marketplace(run: Run) -> None:
    assert json.loads((run.var / "demo.json").read_text())["api_key"] == "mk_test_1"
    logs = list((run.var / "log").iterdir())
    assert logs
    assert [log.name for log in logs if b"mk_test_1" in log.read_bytes()] == []


def test_a_second_supervisor_on_the_same_folder_is_refused(run: Run, folder: Path) -> None:
    (folder / "second").mkdir()
    second = Run(
        folder / "second", [sys.executable, "-m", "devstack", "--root", str(STUB), "--var", str(run.var)]
    )
    assert second.process.wait(40) == 1
    assert second.said == f"error: {run.var} is in use by process {run.process.pid}\n"
    assert answers_ok(f"http://127.0.0.1:{run.port}")


def test_a_busy_port_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as busy:
        port = busy.getsockname()[1]
        assert refused(Run(folder, PORT=str(port))) == (
            f"error: port {port} on 127.0.0.1 is busy: choose another with PORT=\n"
        )


@pytest.mark.parametrize("port", ["0", "http", "65534", "-1"])
def test_a_port_that_is_none_is_one_line(folder: Path, port: str) -> None:
    assert refused(Run(folder, PORT=port)) == f"error: PORT must be a number from 1 to 65533, not '{port}'\n"


def test_a_folder_that_cannot_be_written_is_one_line(folder: Path) -> None:
    (folder / "var").write_text("a file is in the way")
    assert refused(Run(folder)) == f"error: {folder / 'var'}: File exists\n"


def test_given_servers_are_used_and_not_started(
    folder: Path, own_valkey: Valkey, own_postgres: Postgres
) -> None:
    run = Run(folder, DATABASE_URL=own_postgres.url, REDIS_URL=own_valkey.url)
    try:
        run.wait_until_ready()
        servers = json.loads((run.var / "servers.json").read_text())
        assert (servers["database_url"], servers["redis_url"]) == (own_postgres.url, own_valkey.url)
        assert not (run.var / "postgres").exists()
        assert not (run.var / "valkey").exists()
    finally:
        run.kill()


@pytest.mark.parametrize("name", ["gateway", "drain"])
def test_an_application_that_does_not_start_is_said_with_its_last_words(folder: Path, name: str) -> None:
    broken = folder / "stub"
    shutil.copytree(STUB, broken)
    if name == "gateway":
        (broken / "config" / "asgi.py").write_text("raise SystemExit('no luck today')\n")
    else:
        commands = (broken / "manage.py").read_text()
        (broken / "manage.py").write_text(commands.replace("time.sleep(3600)", "sys.exit('no luck')"))
    run = Run(folder, [sys.executable, "-m", "devstack", "--root", str(broken), "--var", str(folder / "var")])
    assert run.wait_for_the_end() == 1
    last = run.said.splitlines()[-1]
    assert last.startswith(f"error: {name} does not start: ")
    assert is_free(run.port)


def test_make_that_alone_is_interrupted_or_killed_takes_everything_along(folder: Path) -> None:
    """As a test harness or a process manager does it, with no terminal to tell everybody."""
    makefile = folder / "Makefile"
    stub = shutil.copytree(STUB, folder / "stub")
    command = f"{sys.executable} -m devstack --root {stub} --var {folder / 'var'}"
    makefile.write_text(f"run:\n\t@FOLLOW_PARENT=1 exec {command}\n")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        run = Run(folder, ["make", "-f", str(makefile), "run"])
        wait_for(lambda run=run: f"READY http://127.0.0.1:{run.port}\n" in run.said, seconds=60)  # type: ignore[misc]
        run.process.send_signal(number)
        run.process.wait(40)
        wait_for(lambda run=run: not run.processes())  # type: ignore[misc]

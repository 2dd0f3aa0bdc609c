"""What the figures were measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psycopg2
import redis

from bench import nginx, wrk

LIBRARIES = (
    "django", "granian", "hiredis", "httptools", "msgspec", "pyreqwest", "redis", "uvicorn", "uvloop",
)  # fmt: skip


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def describe(database_url: str, valkey_url: str) -> dict[str, str]:
    """Machine, core count, and the version of all that takes part."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores, {memory / 2**30:.0f} GiB, Linux {platform.release()}",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "Python": platform.python_version(),
        **{name: found for name in LIBRARIES if (found := installed(name))},
        "PostgreSQL": postgres_version(database_url),
        "Valkey": valkey_version(valkey_url),
        "nginx": nginx.version(),
        "wrk": wrk.version(),
    }


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def postgres_version(url: str) -> str:
    connection = psycopg2.connect(url)
    try:
        number = connection.server_version
    finally:
        connection.close()
    return f"{number // 10_000}.{number % 10_000}"


def valkey_version(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        told = client.info("server")
    return str(told.get("valkey_version") or told["redis_version"])


def sessions(database_url: str, valkey_url: str) -> tuple[int, int]:
    """Connections that PostgreSQL and Valkey serve now, ours to look left out."""
    connection = psycopg2.connect(database_url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()")
            row = cursor.fetchone() or (0,)
    finally:
        connection.close()
    with redis.Redis.from_url(valkey_url) as client:
        return int(row[0]), int(client.info("clients")["connected_clients"]) - 1

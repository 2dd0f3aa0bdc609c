"""Settings: everything that differs between installations comes from the environment.

Where nothing is set, a running ``make run`` is found by the file it leaves under ``var/``.
"""

import json
import os
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

from common.networks import parse_network

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"


def _embedded_servers() -> dict[str, Any]:
    """What ``make run`` says of its servers, or nothing where it does not run."""
    try:
        found: dict[str, Any] = json.loads((VAR_DIR / "servers.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


_EMBEDDED = {} if "DATABASE_URL" in os.environ else _embedded_servers()


def env(name: str, default: str = "") -> str:
    """An environment variable, else what the embedded servers say, else the default."""
    return os.environ.get(name) or str(_EMBEDDED.get(name.lower(), "")) or default


#: Which of the processes this is. Only the gateway goes without the admin and what the admin needs.
PROCESS = env("PROCESS", "console")
IS_GATEWAY = PROCESS == "gateway"

#: Defaults that let checks and migrations run. Nothing serves with them: ``config.own_secrets``.
KNOWN_SECRET_KEY = "not-for-production-only-for-checks-and-migrations-0123456789"  # noqa: S105 - nothing serves with it  # nosec B105
KNOWN_PEPPER = bytes(32)
KNOWN_CREDENTIAL_KEY = "A" * 43 + "="
SECRET_KEY = env("SECRET_KEY", KNOWN_SECRET_KEY)
DEBUG = env("DEBUG") == "1"
ALLOWED_HOSTS = env("ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]").split(",")
PORT = int(env("PORT", "8000"))
CONSOLE_URL = env("CONSOLE_URL", f"http://127.0.0.1:{PORT + 1}")
LOG_LEVEL = env("LOG_LEVEL", "INFO").upper()

INSTALLED_APPS = [
    "accounts",  # before Django's own, whose createsuperuser it replaces
    *([] if IS_GATEWAY else ["django.contrib.admin", "django.contrib.sessions", "django.contrib.messages"]),
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.postgres",
    "django.contrib.staticfiles",
    "axes",
    "adrf",
    "rest_framework",
    "rest_framework_simplejwt",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    *([] if IS_GATEWAY else ["django_celery_beat"]),
    *([] if IS_GATEWAY else ["django_prometheus"]),
    "audit",
    "catalog",
    "keys",
    "policy",
    "metering",
    "quotas",
    "finance",
    "sla",
    "analytics",
    "consumption",
]

_SHARED_MIDDLEWARE = [
    "config.middleware.request_id",
    "config.middleware.no_key_in_url",
    "django.middleware.security.SecurityMiddleware",
    "config.middleware.StaticFiles",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
_CONSOLE_MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    *_SHARED_MIDDLEWARE,
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "accounts.second_factor_views.SecondFactorGate",
    "axes.middleware.AxesMiddleware",
]
MIDDLEWARE = _SHARED_MIDDLEWARE if IS_GATEWAY else _CONSOLE_MIDDLEWARE

ROOT_URLCONF = "config.urls" if IS_GATEWAY else "config.console_urls"
ASGI_APPLICATION = "config.asgi.application"
WSGI_APPLICATION = "config.wsgi.application"
APPEND_SLASH = not IS_GATEWAY

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASE_URL = env("DATABASE_URL", "postgres://127.0.0.1:5432/marketplace")
DATABASES = {"default": dj_database_url.parse(DATABASE_URL, conn_max_age=0 if IS_GATEWAY else 60)}
DATABASES["default"].setdefault("OPTIONS", {})["connect_timeout"] = 5
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

#: Hot state and journal. The broker may live elsewhere.
REDIS_URL = env("REDIS_URL", "redis://127.0.0.1:6379/0")
#: Nodes of a Valkey Cluster (``host:port``, comma-separated; the others are learnt from them). User, password and TLS
#: are those of ``REDIS_URL``, whose host is then not used. Empty: one server.
VALKEY_CLUSTER = [node for node in env("VALKEY_CLUSTER").split(",") if node]


def _redis_database(number: int) -> str:
    """The same server, another database: the journal's keys are never mixed with a queue's."""
    base, _, query = REDIS_URL.partition("?")
    scheme, _, rest = base.partition("://")
    host = rest.partition("/")[0]
    return f"{scheme}://{host}/{number}" + (f"?{query}" if query else "")


CELERY_BROKER_URL = env("CELERY_BROKER_URL") or _redis_database(1)
if VALKEY_CLUSTER and not IS_GATEWAY and "CELERY_BROKER_URL" not in os.environ:
    raise ImproperlyConfigured(
        "Celery's queues do not go over a cluster: set CELERY_BROKER_URL to a server of their own"
    )
if "rediss://" in CELERY_BROKER_URL:
    # Unless the URL says something of certificates, Celery would believe any, and tell it the password.
    CELERY_BROKER_USE_SSL = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BEAT_SCHEDULE = {
    "flush-analytics": {"task": "analytics.tasks.flush_events", "schedule": timedelta(seconds=5)},
    "reap-leases": {"task": "quotas.tasks.reap_leases", "schedule": timedelta(seconds=10)},
    "sync-quotas": {"task": "quotas.tasks.sync_quotas", "schedule": timedelta(minutes=5)},
    "send-budget-notices": {"task": "quotas.tasks.send_budget_notices", "schedule": timedelta(minutes=1)},
    "check-sla": {"task": "sla.tasks.check_sla", "schedule": timedelta(minutes=5)},
    "forget-sign-ins": {"task": "accounts.tasks.forget_expired_sign_ins", "schedule": timedelta(days=1)},
    "anchor-audit": {"task": "audit.tasks.anchor_audit", "schedule": timedelta(minutes=1)},
    "send-key-notices": {"task": "keys.tasks.send_notices", "schedule": timedelta(minutes=1)},
    "remove-claims": {
        "task": "consumption.tasks.remove_expired_claims",
        "schedule": timedelta(minutes=10),
    },
    "make-partitions": {"task": "metering.tasks.make_partitions", "schedule": timedelta(days=1)},
    "archive-usage": {"task": "finance.tasks.archive_usage", "schedule": timedelta(days=1)},
    "resume-exports": {"task": "finance.tasks.resume_exports", "schedule": timedelta(minutes=1)},
    "send-reports": {"task": "finance.tasks.send_reports", "schedule": timedelta(minutes=5)},
    "reconcile-books": {"task": "finance.tasks.reconcile_books", "schedule": timedelta(minutes=5)},
}

AUTH_USER_MODEL = "accounts.User"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "accounts.passwords.MixedCharactersValidator"},
]

AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
#: Five failures (passwords, or codes of a second factor) for one name from one address lock that pair for a quarter
#: of an hour, in console and REST API.
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
#: ``accounts.attempts.forget_failures`` does it, where a second factor is asked for after that.
AXES_RESET_ON_SUCCESS = False
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_CLIENT_IP_CALLABLE = "audit.trail.address_of"
AXES_USERNAME_CALLABLE = "accounts.attempts.counted_name"
AXES_LOCKOUT_CALLABLE = "accounts.attempts.lockout_answer"
#: Fields of a form of which neither rows nor logs of attempts have the value.
AXES_SENSITIVE_PARAMETERS = ["username", "password", "code", "csrfmiddlewaretoken", "ip_address"]
AXES_DISABLE_ACCESS_LOG = True
AXES_VERBOSE = False
#: The gateway has no page to show to who is locked out; its view answers by itself. It takes no cookie for anybody's
#: word, so there is nothing to forge.
SILENCED_SYSTEM_CHECKS = ["axes.W002", "security.W003"] if IS_GATEWAY else []

#: Whether super_admin, admin and finance must have a second factor. Whoever has set one up is always asked for it.
SECOND_FACTOR_REQUIRED = env("SECOND_FACTOR_REQUIRED", "on") == "on"
#: Whether a price holds only once somebody else than who entered it has approved it.
PRICE_APPROVAL_REQUIRED = env("PRICE_APPROVAL_REQUIRED", "off") == "on"

#: Whose tokens people may bring instead of ours: ``{"<issuer>": {"audience": "…", "jwks_url": "https://…"}}``.
OPENID_PROVIDERS: dict[str, dict[str, str]] = json.loads(env("OPENID_PROVIDERS", "{}"))

#: Peppers of the tag in an API key: ``{"1": "<hex>"}``. The highest number signs new keys; all of them are accepted.
KEY_PEPPERS: dict[int, bytes] = {
    int(number): bytes.fromhex(pepper)
    for number, pepper in (
        json.loads(os.environ["KEY_PEPPERS"])
        if "KEY_PEPPERS" in os.environ
        else _EMBEDDED.get("key_peppers") or {"1": KNOWN_PEPPER.hex()}
    ).items()
}

#: Keys of what is encrypted at rest (32 bytes each in URL-safe Base64, comma-separated): the first encrypts, all of
#: them decrypt. To retire one: put a new one first, restart all processes, ``manage.py rotate_credentials`` until it
#: says that older keys may go, then leave the old one out.
CREDENTIAL_KEYS = [k.strip() for k in env("CREDENTIAL_KEYS", KNOWN_CREDENTIAL_KEY).split(",") if k.strip()]
#: Whether failures of keys are counted by address and id (``keys.failures``). Off only to measure what one costs.
KEY_FAILURE_BUCKETS = env("KEY_FAILURE_BUCKETS", "on") == "on"
#: Who may report keys that were found in public: ``{"identifier": "PEM of an ECDSA P-256 public key"}``, and where
#: further ones are listed (``{"public_keys": [{"key_identifier": …, "key": …}]}``; empty: nowhere).
SECRET_SCANNING_KEYS: dict[str, str] = json.loads(env("SECRET_SCANNING_KEYS", "{}"))
SECRET_SCANNING_KEYS_URL = env("SECRET_SCANNING_KEYS_URL")

#: Letters to the owners of keys. Without a server they are written to the worker's log.
EMAIL_HOST = env("EMAIL_HOST")
EMAIL_PORT = int(env("EMAIL_PORT", "587"))
EMAIL_HOST_USER = env("EMAIL_HOST_USER")
EMAIL_HOST_PASSWORD = env("EMAIL_HOST_PASSWORD")
EMAIL_USE_TLS = env("EMAIL_USE_TLS", "on") == "on"
EMAIL_TIMEOUT = 10
EMAIL_BACKEND = f"django.core.mail.backends.{'smtp' if EMAIL_HOST else 'console'}.EmailBackend"
DEFAULT_FROM_EMAIL = env("DEFAULT_FROM_EMAIL", "marketplace@localhost")

#: Where a gateway keeps settled records that Valkey has not confirmed. Must outlive the process.
SPOOL_DIR = Path(env("SPOOL_DIR", str(VAR_DIR / "spool")))
#: Where processes that share a gateway's port ask each other for their metrics. Set by ``config.gateway --workers``.
WORKERS_DIR = env("WORKERS_DIR")
#: Where the worker writes down the head of the audit chain. Must outlive the process, and is worth a backup of its own.
AUDIT_ANCHOR_FILE = Path(env("AUDIT_ANCHOR_FILE", str(VAR_DIR / "audit-anchors")))
#: Where exported files are kept until they expire. Workers write it and the console reads it, so it is one volume.
#: Whose name stands on what is exported for billing.
INVOICE_ISSUER = env("INVOICE_ISSUER", "LLM marketplace")
EXPORT_DIR = Path(env("EXPORT_DIR", str(VAR_DIR / "exports")))
#: Closed months older than so many are archived (``finance.archives``), and their tables dropped so many days after
#: that. Empty: not by themselves, but by ``manage.py partitions``. The files must outlive workers, and be backed up.
ARCHIVE_AFTER_MONTHS = int(env("ARCHIVE_AFTER_MONTHS")) if env("ARCHIVE_AFTER_MONTHS") else None
ARCHIVE_DROP_AFTER_DAYS = int(env("ARCHIVE_DROP_AFTER_DAYS")) if env("ARCHIVE_DROP_AFTER_DAYS") else None
ARCHIVE_DIR = Path(env("ARCHIVE_DIR", str(VAR_DIR / "archive")))
#: The raw lane for ``POST /consume``; without it the DRF view serves the same call.
#: Bytes of settled calls that a gateway holds in memory at most, until the ledger has them; more are in ``SPOOL_DIR``.
RETAINED_MOST_BYTES = int(env("RETAINED_MOST_BYTES", str(64 * 2**20)))
LANE = env("LANE", "on") == "on"
#: Upper bound of one shard's journal; beyond it admission answers 503. Settling never refuses.
JOURNAL_BOUND = int(env("JOURNAL_BOUND", "1000000"))
#: The largest number of gateways there may be: each holds that part of the limits of services in local mode.
MAX_GATEWAYS = int(env("MAX_GATEWAYS", "4"))
#: How many upstream connections one gateway opens at most.
UPSTREAM_MAX_CONNECTIONS = int(env("UPSTREAM_MAX_CONNECTIONS", "2000"))
#: Networks that upstreams, and publishers of keys, may live in although they are not public (CIDR, comma-separated).
#: Production: none.
UPSTREAM_ALLOWED_NETWORKS = [n for n in env("UPSTREAM_ALLOWED_NETWORKS").split(",") if n]
#: Who may read ``/metrics`` (CIDR, comma-separated).
METRICS_NETWORKS = env("METRICS_NETWORKS", "127.0.0.0/8,::1/128").split(",")
#: Proxies in front (CIDR, comma-separated): from them, and from nobody else, X-Forwarded-For is believed.
TRUSTED_PROXIES = [parse_network(n) for n in env("TRUSTED_PROXIES").split(",") if n]
#: Bytes of a request body that are read at most.
MAX_BODY_BYTES = int(env("MAX_BODY_BYTES", str(1024 * 1024)))
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
#: Bytes of an answer that are kept at most for duplicates of a call with an ``Idempotency-Key``; of a larger one its
#: outcome alone.
IDEMPOTENCY_MAX_ANSWER_BYTES = int(env("IDEMPOTENCY_MAX_ANSWER_BYTES", str(256 * 1024)))
KAFKA_TOPIC = env("KAFKA_TOPIC", "marketplace.consumption.events")
EVENT_SOURCE = env("EVENT_SOURCE", "/marketplace/consumption")

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework_simplejwt.authentication.JWTAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "consumption.problems.exception_handler",
    "DEFAULT_PAGINATION_CLASS": None,
    "UNAUTHENTICATED_USER": None,
}
SIMPLE_JWT = {
    "ACCESS_TOKEN_LIFETIME": timedelta(hours=24),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=30),
    "ALGORITHM": "HS256",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "LLM marketplace: consumption and billing",
    "DESCRIPTION": "Call LLM services with one key; see what was used and what it cost.",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
FORMAT_MODULE_PATH = "config.formats"

STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG

SESSION_COOKIE_NAME = "console_session"
CSRF_COOKIE_NAME = "console_csrf"
SECURE_CONTENT_TYPE_NOSNIFF = True
#: Where people reach the console over TLS, nothing goes without it, for a year. What ends TLS has to send
#: ``X-Forwarded-Proto``, and is believed as one of ``TRUSTED_PROXIES``.
TLS = CONSOLE_URL.startswith("https://")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = TLS
SECURE_HSTS_SECONDS = 31_536_000 if TLS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = TLS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TRUSTED_PROXIES else None
#: Asked from inside, where there is no TLS.
SECURE_REDIRECT_EXEMPT = [r"^health", r"^(api/v1/)?metrics$"]
CSRF_TRUSTED_ORIGINS = [CONSOLE_URL.rstrip("/")] if TLS else []

DEFAULT_EXCEPTION_REPORTER_FILTER = "config.error_reports.DiscreetReports"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        # A refusal is an answer, not an event; /metrics counts them.
        "django.request": {"level": "CRITICAL"},
        # It tells of every letter that it takes out of a font.
        "fontTools": {"level": "WARNING"},
    },
}

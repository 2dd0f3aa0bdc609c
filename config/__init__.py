import os

# Tasks find their app where Django starts. A gateway has none, and spares ten megabytes and a fifth of its start; it
# gets by with Celery too, where nobody says before Python starts that it is one.
if os.environ.get("PROCESS") != "gateway":
    from config.celery import app as celery_app

    __all__ = ("celery_app",)

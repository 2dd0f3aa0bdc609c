from django.apps import AppConfig


class ConsumptionConfig(AppConfig):
    name = "consumption"
    default_auto_field = "django.db.models.BigAutoField"

from django.apps import AppConfig


class FinanceConfig(AppConfig):
    name = "finance"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from catalog import rotation  # models cannot be imported before
        from finance.models import ReportSchedule

        rotation.also("the credential of report", ReportSchedule, "credential")

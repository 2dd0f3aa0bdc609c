"""Broken service level objectives: a violation tells of a moment, an incident of its whole life."""

import uuid

from django.db import models

from catalog.models import Service


class Metric(models.TextChoices):
    LATENCY_P95_MS = "latency_p95_ms"
    ERROR_RATE = "error_rate"
    UPTIME = "uptime"


class Severity(models.TextChoices):
    WARNING = "warning"
    CRITICAL = "critical"


class SlaIncident(models.Model):
    """From the check that found an objective broken to the check that found it kept again."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    service = models.ForeignKey(Service, on_delete=models.PROTECT, related_name="sla_incidents")
    metric = models.CharField(max_length=100, choices=Metric)
    severity = models.CharField(max_length=50, choices=Severity)
    opened_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "sla_incidents"
        ordering = ("-opened_at",)
        constraints = (
            models.UniqueConstraint(
                fields=("service", "metric"),
                condition=models.Q(closed_at=None),
                name="one_open_incident_per_metric",
            ),
        )

    def __str__(self) -> str:
        return f"{self.service}: {self.metric}"


class SlaViolation(models.Model):
    """Written when a violation opens or changes its severity."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    service = models.ForeignKey(
        Service, on_delete=models.PROTECT, related_name="sla_violations", db_index=False
    )
    incident = models.ForeignKey(SlaIncident, on_delete=models.PROTECT, related_name="violations")
    metric = models.CharField(max_length=100, choices=Metric)
    threshold = models.FloatField()
    actual = models.FloatField()
    timestamp = models.DateTimeField()
    severity = models.CharField(max_length=50, choices=Severity)

    class Meta:
        db_table = "sla_violations"
        ordering = ("-timestamp",)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(severity__in=("warning", "critical")), name="valid_sla_severity"
            ),
        )
        indexes = (
            models.Index(fields=("service", "-timestamp"), name="idx_sla_violations_service_ts"),
            models.Index(fields=("severity",), name="idx_sla_violations_severity"),
            models.Index(fields=("-timestamp",), name="idx_sla_violations_timestamp"),
        )

    def __str__(self) -> str:
        return f"{self.service}: {self.metric} {self.severity}"

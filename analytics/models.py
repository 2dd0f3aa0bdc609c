"""Events as they left for the analytics hub, and how far the ledger has been turned into events."""

from django.db import models


class AnalyticsEvent(models.Model):
    """One CloudEvents 1.0 event. The table is the sink for as long as no Kafka is configured."""

    class Type(models.TextChoices):
        CONSUMPTION_REQUEST = "consumption_request"
        RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
        QUOTA_EXCEEDED = "quota_exceeded"
        SLA_VIOLATION = "sla_violation"
        POLICY_VIOLATION = "policy_violation"
        API_KEY_CREATED = "api_key_created"
        API_KEY_REVOKED = "api_key_revoked"

    id = models.BigAutoField(primary_key=True)
    event_id = models.CharField(
        max_length=100, help_text="The id of the thing itself: a request, a violation, a key."
    )
    type = models.CharField(max_length=50, choices=Type)
    subject = models.CharField(max_length=100, blank=True)
    time = models.DateTimeField()
    data = models.JSONField()

    class Meta:
        db_table = "analytics_events"
        ordering = ("-time",)
        indexes = (
            models.Index(fields=("type", "-time"), name="idx_analytics_type_time"),
            models.Index(fields=("-time",), name="idx_analytics_time"),
        )
        constraints = (models.UniqueConstraint(fields=("event_id", "type"), name="one_event_per_thing"),)

    def __str__(self) -> str:
        return f"{self.type} {self.event_id}"


class AnalyticsPosition(models.Model):
    """The last journal batch of a shard whose records became events."""

    shard = models.PositiveSmallIntegerField(primary_key=True)
    batch = models.PositiveBigIntegerField(default=0)

    class Meta:
        db_table = "analytics_positions"
        ordering = ("shard",)

    def __str__(self) -> str:
        return f"shard {self.shard}: batch {self.batch}"

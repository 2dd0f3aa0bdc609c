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
            models.Index(fields=("subject", "-time"), name="idx_analytics_subject"),
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


class SourcePosition(models.Model):
    """How far a source other than the ledger has been turned into events."""

    class Source(models.TextChoices):
        GATEWAYS = "gateways", "gateways: what they refused"
        SLA = "sla", "violations of objectives"
        KEYS = "keys", "keys made and revoked"

    source = models.CharField(primary_key=True, max_length=20, choices=Source)
    position = models.CharField(
        max_length=50, blank=True, help_text="All up to here became events, or were lost."
    )
    recent = models.JSONField(default=list, help_text="Beyond the position: ids that became events already.")
    passed = models.PositiveBigIntegerField(default=0, help_text="Entries of the stream that lie behind.")
    lost = models.PositiveBigIntegerField(default=0, help_text="Entries pushed out of the stream unread.")

    class Meta:
        db_table = "analytics_source_positions"
        ordering = ("source",)

    def __str__(self) -> str:
        return f"{self.source}: {self.position}"

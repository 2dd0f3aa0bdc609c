"""How far each shard's journal has come into the ledger, what each batch changed, and what could not come in."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import MD5


class ShardEpoch(models.Model):
    """The number that a shard's live counters must carry to be believed. It only rises."""

    class State(models.TextChoices):
        LIVE = "live"
        REBUILDING = "rebuilding"
        DISTRUSTED = "distrusted", "distrusted: counters to be set from nothing"

    shard = models.PositiveSmallIntegerField(primary_key=True)
    number = models.PositiveBigIntegerField()
    state = models.CharField(max_length=20, choices=State, default=State.REBUILDING)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "shard_epochs"
        ordering = ("shard",)

    def __str__(self) -> str:
        return f"shard {self.shard}: {self.number} {self.state}"


class JournalPosition(models.Model):
    """How far a shard's journal has been drained. Moves only in the transaction that writes what was read."""

    shard = models.PositiveSmallIntegerField(primary_key=True)
    epoch = models.PositiveBigIntegerField()
    last_id = models.CharField(max_length=41, default="0-0")
    batch = models.PositiveBigIntegerField(default=0, help_text="Number of the last batch drained.")

    class Meta:
        db_table = "journal_positions"
        ordering = ("shard",)

    def __str__(self) -> str:
        return f"shard {self.shard}: {self.epoch}:{self.last_id}"


class JournalBatch(models.Model):
    """What one drained batch changed in the ledger: the outbox that analytics reads. Numbers rise by one within a shard
    and are committed in that order."""

    shard = models.PositiveSmallIntegerField()
    number = models.PositiveBigIntegerField()
    record_ids = ArrayField(models.UUIDField())
    drained_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "journal_batches"
        ordering = ("shard", "number")
        constraints = (models.UniqueConstraint(fields=("shard", "number"), name="one_batch_per_number"),)

    def __str__(self) -> str:
        return f"shard {self.shard} batch {self.number}"


class DeadLetter(models.Model):
    """A journal entry that could not become a ledger row. It waits here for a person."""

    class Reason(models.TextChoices):
        UNREADABLE = "unreadable"
        CONFLICT = "conflict", "conflict: the ledger has other amounts"
        REFUSED = "refused", "refused by the database"

    shard = models.PositiveSmallIntegerField()
    epoch = models.PositiveBigIntegerField()
    stream_id = models.CharField(max_length=41)
    reason = models.CharField(max_length=20, choices=Reason)
    detail = models.CharField(max_length=255, blank=True)
    entry = models.BinaryField()
    settlement = models.CharField(
        max_length=20, blank=True, help_text="How it was settled, as the journal says."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "dead_letters"
        ordering = ("-created_at",)
        constraints = (
            # In whatever epoch it is read again. Ids alone might come again where a clock was set back.
            models.UniqueConstraint("shard", "stream_id", MD5("entry"), name="one_dead_letter_per_entry"),
        )

    def __str__(self) -> str:
        return f"{self.reason} {self.shard}:{self.stream_id}"

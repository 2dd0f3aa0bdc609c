"""The audit trail: who changed what, and from what to what. Append-only; the database refuses anything else.

Every entry gets a link in a chain of hashes, so that a change made past all refusals shows: see ``audit.chain``.
"""

from django.db import models


class AuditEntry(models.Model):
    """One change. ``before`` and ``after`` hold the changed fields only and never a secret."""

    at = models.DateTimeField(auto_now_add=True)
    actor = models.CharField(max_length=255, help_text="Who did it: a user name, or the command that ran.")
    action = models.CharField(max_length=100)
    target_type = models.CharField(max_length=100)
    target_id = models.CharField(max_length=100)
    address = models.GenericIPAddressField(null=True, blank=True)
    before = models.JSONField(default=dict, blank=True)
    after = models.JSONField(default=dict, blank=True)

    class Meta:
        db_table = "audit_entries"
        ordering = ("-id",)
        verbose_name_plural = "audit entries"
        indexes = (models.Index(fields=("target_type", "target_id"), name="idx_audit_target"),)

    def __str__(self) -> str:
        return f"{self.action} {self.target_type} {self.target_id}"


class AuditLink(models.Model):
    """The place of an entry in the chain. Written by the database alone, at the commit of the entry.

    ``sequence`` rises by one from 1, in the order of commits. ``hash`` is SHA-256 over ``previous_hash`` and the
    entry; the first link's ``previous_hash`` is 32 zero bytes.
    """

    sequence = models.BigIntegerField(primary_key=True)
    # No constraint of the database: it would refuse a TRUNCATE before the trigger that says why.
    entry = models.OneToOneField(
        AuditEntry, on_delete=models.DO_NOTHING, related_name="link", db_constraint=False
    )
    previous_hash = models.BinaryField()
    hash = models.BinaryField()

    class Meta:
        db_table = "audit_links"
        default_permissions = ()
        ordering = ("sequence",)

    def __str__(self) -> str:
        return f"{self.sequence} {bytes(self.hash).hex()}"

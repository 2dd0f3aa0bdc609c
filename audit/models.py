"""The audit trail: who changed what, and from what to what. Append-only; the database refuses anything else."""

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

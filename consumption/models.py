"""What the console shows of gateways. This app keeps no rows of its own."""

from catalog.models import Service


class ServiceUpstream(Service):
    """A service, by the state of its endpoints."""

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = "upstream state"
        verbose_name_plural = "upstream states"

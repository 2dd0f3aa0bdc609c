"""Every route of the gateway, read from its URLconf."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver
from django.urls.resolvers import RoutePattern

from consumption.views import ConsumeView, DialectView, ModelsView

#: They need the gateway's own runtime, so they are called over a socket.
PAID = (ConsumeView, DialectView, ModelsView)


@dataclass(frozen=True, slots=True)
class Route:
    """``template``: the path, with ``<kind:name>`` where a value goes. ``methods``: those that the view answers."""

    template: str
    view: type[Any]
    methods: tuple[str, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the values in the path."""
        return tuple(re.findall(r"<(?:\w+:)?(\w+)>", self.template))

    @property
    def paid(self) -> bool:
        return issubclass(self.view, PAID)

    def filled(self, value: object) -> str:
        """The path with ``value`` in every place."""
        return re.sub(r"<[^>]+>", str(value), self.template)


def every_route() -> list[Route]:
    return list(_below("/", get_resolver("config.urls")))


def _below(prefix: str, resolver: URLResolver) -> Iterator[Route]:
    for each in resolver.url_patterns:
        # A regular expression cannot be filled in by rule.
        assert isinstance(each.pattern, RoutePattern), f"{prefix}{each.pattern} is not a path()"
        template = prefix + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from _below(template, each)
        else:
            yield _route(template, each)


def _route(template: str, pattern: URLPattern) -> Route:
    view: type[Any] = getattr(pattern.callback, "view_class", None) or pattern.callback.cls  # type: ignore[attr-defined]
    methods = tuple(name for name in view.http_method_names if hasattr(view, name))
    return Route(template, view, methods)

"""The admin as an operator sees it."""

from typing import Any

from django.contrib.auth.models import Group
from django.test import Client

from accounts.models import User
from accounts.roles import sync_roles
from tests.factories import make_user
from tests.telling import Telling


class Console(Telling, Client):
    pass


def operator(role: str = "super_admin") -> User:
    """Somebody who may use the console in one of the platform's roles."""
    group = Group.objects.filter(name=role).first()
    if group is None:  # a test that commits has emptied the tables
        sync_roles()
        group = Group.objects.get(name=role)
    person = make_user(is_staff=True)
    person.groups.add(group)
    return person


def console(person: User) -> Client:
    client = Console(raise_request_exception=True)
    client.force_login(person)
    return client


def posted(client: Client, url: str, **fields: Any) -> Any:
    """Send a form; its errors, if it has any, are what an assertion should show."""
    response = client.post(url, fields)
    form = getattr(response, "context_data", None) or {}
    if "adminform" in form:
        raise AssertionError(f"{form['adminform'].form.errors} {form['errors']}")
    return response

"""Signing in over the REST API: one refresh token at a time is good, and a used one ends the sign-in it belongs to."""

import logging
import uuid

from django.contrib.sessions.backends.db import SessionStore
from django.db import transaction
from django.db.models import F
from rest_framework.exceptions import AuthenticationFailed
from rest_framework_simplejwt.tokens import RefreshToken, Token

from accounts.models import SignIn, User
from common import clock

log = logging.getLogger(__name__)
#: The claim that says to which sign-in a token belongs; access tokens have it too.
CLAIM = "sign_in"


def begin(*, user: User) -> RefreshToken:
    """The first refresh token of a new sign-in. ``user`` as it was when its credentials were checked.

    Raises ``AuthenticationFailed`` where ``end_all`` was called since then.
    """
    sign_in = SignIn(id=uuid.uuid4(), user=user)
    token = _token(user, sign_in.id)
    sign_in.refresh_id = token["jti"]
    with transaction.atomic():
        # Held until the sign-in is there: what ends all of them now waits, and then ends this one too.
        same = User.objects.select_for_update(no_key=True).filter(
            pk=user.pk, session_round=user.session_round
        )
        if not same.exists():
            raise AuthenticationFailed
        sign_in.save(force_insert=True)
    return token


@transaction.atomic
def end_all(*, user: User) -> int:
    """End the person's sign-ins, access tokens included, and sessions of the console. Returns how many sign-ins."""
    User.objects.filter(pk=user.pk).update(session_round=F("session_round") + 1)
    return SignIn.objects.filter(user=user, ended_at=None).update(ended_at=clock.now())


def renew(*, user: User, presented: RefreshToken) -> RefreshToken:
    """The next refresh token for the current one. Not to be called in a transaction, which a refusal would undo.

    Of several at once with the same token one gets the next, and the others end the sign-in, as a thief's would.
    Raises ``AuthenticationFailed``.
    """
    sign_in = SignIn.objects.filter(id=presented.get(CLAIM), user=user, ended_at=None)
    renewed = _token(user, presented.get(CLAIM))
    changes = {"refresh_id": renewed["jti"], "renewed_at": clock.now()}
    if sign_in.filter(refresh_id=presented["jti"]).update(**changes):
        return renewed
    if sign_in.update(ended_at=clock.now()):
        log.warning(
            "a used refresh token came again: sign-in %s of user %s is ended", presented.get(CLAIM), user.pk
        )
    raise AuthenticationFailed


def has_ended(token: Token) -> bool:
    """Whether the sign-in that a token belongs to was ended or is gone."""
    return not SignIn.objects.filter(id=token.get(CLAIM), ended_at=None).exists()


def forget_expired() -> int:
    """Delete sign-ins whose last refresh token has expired, and sessions of the console that have. Returns how many
    sign-ins."""
    SessionStore.clear_expired()
    return SignIn.objects.filter(renewed_at__lt=clock.now() - RefreshToken.lifetime).delete()[0]


def _token(user: User, sign_in: object) -> RefreshToken:
    token = RefreshToken.for_user(user)
    token[CLAIM] = str(sign_in)
    return token

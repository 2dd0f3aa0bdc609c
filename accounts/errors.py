"""Why somebody who is signed in may still not act."""

from common.errors import Forbidden, NotFound, Problem


class NoMembership(Forbidden):
    code, title = "no_membership", "You are not a member of any consumer"


class ConsumerUnknown(NotFound):
    """Absent, or one that the person is no member of: the two look alike."""

    code, title = "consumer_not_found", "No such consumer, or you are not a member of it"


class ConsumerNotNamed(Problem):
    code, status = "consumer_required", 400
    title = "You are a member of several consumers: name one in the header X-Consumer-Id"


class SignInLocked(Problem):
    code, status = "sign_in_locked", 429
    title = "Too many attempts to sign in: try again later"


class ConsumerSuspended(Forbidden):
    code, title = "consumer_suspended", "This consumer is suspended"


class SecondFactorMissing(Problem):
    code, status = "second_factor_missing", 401
    title = "Your role wants a second factor: set one up in the console first"


class SecondFactorRequired(Problem):
    code, status = "second_factor_required", 401
    title = "The second factor is wanted too: send otp, a code of your authenticator app"


class SecondFactorWrong(Problem):
    code, status = "second_factor_wrong", 401
    title = "The code is wrong, or was given before"


class SecondFactorLocked(Problem):
    code, status = "second_factor_locked", 429
    title = "Too many wrong codes: try again later"


class SecondFactorUnreadable(Problem):
    code, status = "second_factor_unreadable", 503
    title = "Your second factor cannot be checked now: use a code on paper, or ask an operator"


class PersonUnknown(NotFound):
    code, title = "person_not_found", "Nobody has this address"


class ProviderUnavailable(Problem):
    code, status = "openid_provider_unavailable", 503
    title = "The provider of this token does not say now which keys it signs with"

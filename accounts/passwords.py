"""What a password must be, beside what Django's own validators ask."""

from django.core.exceptions import ValidationError


class MixedCharactersValidator:
    """Small letters, capital letters and digits: one of each at least."""

    def validate(self, password: str, user: object = None) -> None:
        kinds = (str.islower, str.isupper, str.isdigit)
        if not all(any(map(kind, password)) for kind in kinds):
            raise ValidationError(self.get_help_text(), code="password_not_mixed")

    def get_help_text(self) -> str:
        return "Your password must contain small letters, capital letters and digits."

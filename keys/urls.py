from django.urls import path

from keys.leak_views import LeaksView
from keys.views import KeysView, KeyView, RotateKeyView

urlpatterns = [
    path("keys", KeysView.as_view(), name="keys"),
    path("keys/<uuid:key_id>", KeyView.as_view(), name="key"),
    path("keys/<uuid:key_id>/rotate", RotateKeyView.as_view(), name="key-rotate"),
    path("secret-scanning", LeaksView.as_view(), name="secret-scanning"),
]

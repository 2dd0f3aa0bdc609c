from django.urls import path

from keys.views import KeysView, KeyView

urlpatterns = [
    path("keys", KeysView.as_view(), name="keys"),
    path("keys/<uuid:key_id>", KeyView.as_view(), name="key"),
]

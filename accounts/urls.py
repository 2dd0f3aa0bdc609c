from django.urls import path

from accounts.views import TokenRenewView, TokenView

urlpatterns = [
    path("token", TokenView.as_view(), name="token"),
    path("token/refresh", TokenRenewView.as_view(), name="token-refresh"),
]

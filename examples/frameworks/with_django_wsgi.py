"""Django by WSGI, each request in a thread: gapless serve with_django_wsgi:app --threads 20"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from gapless import Service

VERSION = "1"

if not settings.configured:
    settings.configure(
        SECRET_KEY="only for this example",
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    )


def version(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"version": VERSION, "django": django.get_version()})


def slow(request: HttpRequest) -> JsonResponse:
    time.sleep(float(request.GET.get("seconds", "1")))
    return JsonResponse({"version": VERSION})


urlpatterns = [path("", version), path("slow", slow)]
app = get_wsgi_application()
service = Service("django", app)


@service.resource
async def database() -> AsyncIterator[str]:
    yield "connected"
    print("closed by the service", flush=True)

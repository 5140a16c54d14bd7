"""Django by ASGI: gapless serve with_django_asgi:app

Django has no lifespan; what must be opened and closed is a resource of the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
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


async def version(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"version": VERSION, "django": django.get_version()})


async def slow(request: HttpRequest) -> JsonResponse:
    await asyncio.sleep(float(request.GET.get("seconds", "1")))
    return JsonResponse({"version": VERSION})


urlpatterns = [path("", version), path("slow", slow)]
app = get_asgi_application()
service = Service("django", app)


@service.resource
async def database() -> AsyncIterator[str]:
    yield "connected"
    print("closed by the service", flush=True)

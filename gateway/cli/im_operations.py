"""docs/im-operations.md: every operation of IM with its fields, from the tables that both doors run; must never start
anything of IM."""

from __future__ import annotations

from typing import Any, cast

import msgspec

INTRO = """\
# Operations of IM

What users ask for ([im.md](im.md)). A device asks by the name, in a frame UP
([frames.md](frames.md#up-0x22-device--gateway)) or with `Im.ask(name, field=…)` of the SDK; a client of REST by
method and path, with its session key as `Authorization: Bearer usk_…`. Both run the same. In REST a field in {braces}
stands in the path, those of GET and DELETE in the query, all others in the body (JSON, or msgpack by its
Content-Type). A field with a question mark may be left out. `/openapi.json` has the types and bounds of each.

This page is made by `make docs`.

| name | REST | takes | answers | what it does |
|---|---|---|---|---|
"""
FREE = "\nWhoever is not a user yet can ask for: "
FILES = """
## Files

Over REST alone, tus 1.0.0 for uploads ([im-media.md](im-media.md)). Each needs the session key, but for `/m/…`, whose
link is the key, and OPTIONS.

| REST | what it does |
|---|---|
"""


def build_page() -> str:
    from gateway.api.im.links import MediaRoutes, media_routes
    from gateway.api.im.uploads import UploadRoutes, upload_routes
    from gateway.config.im_section import Im
    from gateway.im.operations.history import build_history_operations
    from gateway.im.operations.messages import build_message_operations
    from gateway.im.operations.ust import build_ust_operations
    from gateway.im.ust.build import Ust

    # the tables alone: nobody runs what is in them
    none = cast(Any, None)
    operations = (
        *build_ust_operations(Ust(*(none for _ in Ust._fields)), Im()),
        *build_message_operations(none, none),
        *build_history_operations(none, none),
    )
    rows = [
        f"| `{one.name}` | {one.method} `{one.path}` | {_fields(one.ask)} | {_fields(one.reply)} | {one.summary} |"
        for one in operations
    ]
    routes = (*upload_routes(UploadRoutes(none, none, 0)), *media_routes(MediaRoutes(none, none, none)))
    files = [f"| {route.method} `{route.path}` | {route.summary} |" for route in routes]
    free = ", ".join(f"`{one.name}`" for one in operations if not one.needs_user)
    return INTRO + "\n".join(rows) + "\n" + FREE + free + ".\n" + FILES + "\n".join(files) + "\n"


def _fields(struct: type[msgspec.Struct]) -> str:
    names = [f"`{field.encode_name}`{'' if field.required else '?'}" for field in msgspec.structs.fields(struct)]
    return ", ".join(names)

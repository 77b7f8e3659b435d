"""Where each route of the provider door is answered in a fleet: one table, held complete by a test; must hold no I/O.

A route that is not here is not served: it would be answered by whichever partition came to mind.
"""

from __future__ import annotations

from enum import Enum


class Place(Enum):
    HERE = "this node, whichever it is"
    APPS = "the partition of apps, 0; a change is copied to all before it is answered"
    OPERATOR = "partition 0: what there is once in the fleet"
    HOME = "the app's home partition"
    TOKEN = "the partition of the token in the path"  # noqa: S105
    DEVICE = "the same, where it may be written in hex"
    TARGET = "the partition of the token in the body, else the app's home partition"
    IDENTITY = "the partition of the token that the body proves"
    PUSH = "the partition of the push in the path"
    VIEW = "the same; a push to many is looked up in all partitions, and merged"
    MESSAGE = "the partition of the message in the path"
    LABELS = "all partitions, registrations of one after the other"
    SCHEDULED = "all partitions, what waits in one after the other"
    BATCH = "the partition of each push"
    RECEIPTS = "all partitions, receipts merged in order"
    STREAM = "all partitions, merged in order, for as long as it is open"
    DEATHS = "all partitions, dead tokens merged in order"
    MESSAGE_RECEIPTS = "all partitions, merged in order, filtered there"


#: "METHOD path" → place
PLACES: dict[str, Place] = {
    "POST /v1/apps": Place.APPS,
    "GET /v1/apps": Place.APPS,
    "GET /v1/apps/{app}": Place.APPS,
    "PATCH /v1/apps/{app}": Place.APPS,
    "POST /v1/apps/{app}/keys": Place.APPS,
    "GET /v1/apps/{app}/keys": Place.APPS,
    "PATCH /v1/apps/{app}/keys/{id}": Place.APPS,
    "DELETE /v1/apps/{app}/keys/{id}": Place.APPS,
    "POST /v1/push": Place.TARGET,
    "POST /v1/push/batch": Place.BATCH,
    "GET /v1/push/{id}": Place.VIEW,
    "DELETE /v1/push/{id}": Place.PUSH,
    "GET /v1/push/{id}/statistics": Place.VIEW,
    "GET /v1/scheduled": Place.SCHEDULED,
    "GET /v1/dead-tokens": Place.DEATHS,
    "GET /v1/receipts": Place.RECEIPTS,
    "GET /v1/receipts/stream": Place.STREAM,
    "GET /v1/registrations": Place.LABELS,
    "GET /v1/registrations/{token}": Place.TOKEN,
    "PUT /v1/registrations/{token}": Place.TOKEN,
    "DELETE /v1/registrations/{token}": Place.TOKEN,
    "POST /v1/service-access": Place.IDENTITY,
    # --- Web Push
    "POST /push/{token}": Place.TOKEN,
    "GET /push/{token}": Place.TOKEN,
    "OPTIONS /push/{token}": Place.HERE,
    "OPTIONS /push/message/{id}": Place.HERE,
    "OPTIONS /push/receipts/{id}": Place.HERE,
    "GET /push/message/{id}": Place.MESSAGE,
    "DELETE /push/message/{id}": Place.MESSAGE,
    "GET /push/receipts/{id}": Place.MESSAGE_RECEIPTS,
    # --- APNs
    "POST /3/device/{token}": Place.DEVICE,
    "POST /3/device/": Place.HERE,
    # --- operations
    "GET /healthz": Place.HERE,
    "GET /readyz": Place.HERE,
    "GET /metrics": Place.HERE,
    "GET /openapi.json": Place.HERE,
    "GET /docs": Place.HERE,
    "GET /docs/openapi-3.0.json": Place.HERE,
    "GET /docs/{name}": Place.HERE,
    "GET /": Place.HERE,
}

#: What an operator's network, cards, opaque ids and IM bring: there once in a fleet. Beginnings of paths.
_ONCE = (
    "/v1/subscribers",
    "/v1/subscriber-ids",
    "/v1/cards",
    "/v1/downloads",
    "/v1/campaigns",
    "/v1/im/",
    "/m/",
    "/3gpp-device-triggering/",
)


def place_of(method: str, path: str) -> Place:
    """KeyError for a route that has no place."""
    found = PLACES.get(f"{method} {path}")
    if found is not None:
        return found
    if path.startswith(_ONCE):
        return Place.OPERATOR
    raise KeyError(f"{method} {path} has no place in gateway.fleet.places")

"""The SDKs: `Device`, its registrations and what they hand out, and `Provider`, a stream of pushes and receipts.

They import nothing of the package but the model."""

from gateway.client.content import NEW_MESSAGE, AckPolicy, Counters, Item, Notification, Recall, Tip
from gateway.client.credentials import Credentials, CredentialStore, FileCredentials, MemoryCredentials
from gateway.client.device import Device
from gateway.client.errors import DeviceClosed, LinkLost, PushUncertain, RegistrationEnded
from gateway.client.events import Fetched
from gateway.client.im import Im
from gateway.client.im_media import ImMedia
from gateway.client.page_store import FilePages
from gateway.client.provider import Provider, PushResult
from gateway.client.registration import Registration
from gateway.client.seen import SeenStore
from gateway.client.service_pages import Invitation, ServicePages
from gateway.client.session import Session
from gateway.client.states import Connection, DeviceState
from gateway.client.wake import WakeListener
from gateway.model.frames import Urgency
from gateway.model.registration import Profile

__all__ = [
    "NEW_MESSAGE",
    "AckPolicy",
    "Connection",
    "Counters",
    "CredentialStore",
    "Credentials",
    "Device",
    "DeviceClosed",
    "DeviceState",
    "Fetched",
    "FileCredentials",
    "FilePages",
    "Im",
    "ImMedia",
    "Invitation",
    "Item",
    "LinkLost",
    "MemoryCredentials",
    "Notification",
    "Profile",
    "Provider",
    "PushResult",
    "PushUncertain",
    "Recall",
    "Registration",
    "RegistrationEnded",
    "SeenStore",
    "ServicePages",
    "Session",
    "Tip",
    "Urgency",
    "WakeListener",
]

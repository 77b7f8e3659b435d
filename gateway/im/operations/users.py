"""What a user asks for themselves (D1): register, verify, profile, addresses, sign out, remove."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from gateway.config.im_section import Im
from gateway.im.operation import Ask, Caller, Operation, Reply
from gateway.im.ust.users import Users
from gateway.model.im_people import User, build_user_id

AddressText = Annotated[str, Meta(min_length=1, max_length=254)]
CodeText = Annotated[str, Meta(min_length=1, max_length=32)]
NameText = Annotated[str, Meta(max_length=100)]


class Done(Reply):
    """It is done, and durable."""


class Nothing(Ask):
    """No fields."""


class Address(Ask):
    #: a telephone number with its country code, or a mailbox
    address: AddressText


class CodeSent(Reply):
    """The same whether the address is a user's or not."""

    #: seconds for which the code is good
    code_s: float


class Verify(Ask):
    address: AddressText
    code: CodeText
    #: of a user who is new; an old one keeps theirs
    name: NameText = ""
    #: of this user: their other devices are signed out
    sign_out_others: bool = False


class Verified(Reply):
    user: str
    is_new: bool
    #: session key for REST, shown this once; absent where a device asked: it is signed in
    key: str = ""


class SessionKey(Reply):
    #: for REST, shown this once
    key: str


class SignOut(Ask):
    #: a session key that is to end; over a device connection without it: this device
    key: Annotated[str, Meta(max_length=64)] = ""
    #: all devices of the user
    everywhere: bool = False


class Profile(Reply):
    user: str
    name: str
    addresses: tuple[str, ...]
    is_discoverable: bool
    #: address in the service's domain; absent: none
    mailbox: str = ""


class ChangeProfile(Ask):
    """What is not there stays."""

    name: NameText | UnsetType = UNSET
    #: others who have one of the addresses may find this user by it
    is_discoverable: bool | UnsetType = UNSET
    #: local part in the service's domain; chosen once
    mailbox: Annotated[str, Meta(min_length=1, max_length=64)] | UnsetType = UNSET


class ConfirmAddress(Ask):
    address: AddressText
    code: CodeText


class UserOperations:
    def __init__(self, users: Users, settings: Im) -> None:
        self._users = users
        self._code_s = settings.code_s

    def operations(self) -> tuple[Operation, ...]:
        return (
            Operation(
                "register",
                "POST",
                "/v1/im/register",
                Address,
                CodeSent,
                self._register,
                "Send a one-time code to a number or a mailbox",
                needs_user=False,
            ),
            Operation(
                "verify",
                "POST",
                "/v1/im/verify",
                Verify,
                Verified,
                self._verify,
                "Sign in with the code: this device, or with a session key",
                needs_user=False,
            ),
            Operation(
                "session_key",
                "POST",
                "/v1/im/session_keys",
                Nothing,
                SessionKey,
                self._session_key,
                "A session key for REST: what a device needs to bring and fetch files",
            ),
            Operation("sign_out", "POST", "/v1/im/sign_out", SignOut, Done, self._sign_out, "Sign out"),
            Operation("profile", "GET", "/v1/im/me", Nothing, Profile, self._profile, "Who I am"),
            Operation(
                "change_profile",
                "PATCH",
                "/v1/im/me",
                ChangeProfile,
                Profile,
                self._change_profile,
                "Change name, whether others find me, or choose a mailbox",
            ),
            Operation(
                "add_address",
                "POST",
                "/v1/im/me/addresses",
                Address,
                CodeSent,
                self._add_address,
                "Send a code to a further address of mine",
            ),
            Operation(
                "confirm_address",
                "POST",
                "/v1/im/me/addresses/confirm",
                ConfirmAddress,
                Profile,
                self._confirm_address,
                "Add the address that the code was sent to",
            ),
            Operation(
                "remove_address",
                "POST",
                "/v1/im/me/addresses/remove",
                Address,
                Profile,
                self._remove_address,
                "Take an address away",
            ),
            Operation(
                "remove_me", "DELETE", "/v1/im/me", Nothing, Done, self._remove, "Remove me and everything of mine"
            ),
        )

    async def _register(self, caller: Caller, ask: Address) -> CodeSent:
        await self._users.register(ask.address, caller.token, caller.now_ms)
        return CodeSent(code_s=self._code_s)

    async def _verify(self, caller: Caller, ask: Verify) -> Verified:
        signed_in = await self._users.verify(
            ask.address, ask.code, caller.token, caller.now_ms, name=ask.name, alone=ask.sign_out_others
        )
        return Verified(user=build_user_id(signed_in.user), is_new=signed_in.is_new, key=signed_in.key)

    async def _session_key(self, caller: Caller, _: Nothing) -> SessionKey:
        return SessionKey(key=await self._users.session_key(caller.me, caller.now_ms))

    async def _sign_out(self, caller: Caller, ask: SignOut) -> Done:
        await self._users.sign_out(caller.me, caller.token, key=ask.key, everywhere=ask.everywhere)
        return Done()

    async def _profile(self, caller: Caller, _: Nothing) -> Profile:
        return self._view(self._users.user(caller.me))

    async def _change_profile(self, caller: Caller, ask: ChangeProfile) -> Profile:
        user = await self._users.change_profile(
            caller.me,
            caller.now_ms,
            name=None if ask.name is UNSET else ask.name,
            is_discoverable=None if ask.is_discoverable is UNSET else ask.is_discoverable,
            mailbox=None if ask.mailbox is UNSET else ask.mailbox,
        )
        return self._view(user)

    async def _add_address(self, caller: Caller, ask: Address) -> CodeSent:
        await self._users.add_address(caller.me, ask.address, caller.token, caller.now_ms)
        return CodeSent(code_s=self._code_s)

    async def _confirm_address(self, caller: Caller, ask: ConfirmAddress) -> Profile:
        user = await self._users.confirm_address(caller.me, ask.address, ask.code, caller.token, caller.now_ms)
        return self._view(user)

    async def _remove_address(self, caller: Caller, ask: Address) -> Profile:
        return self._view(await self._users.remove_address(caller.me, ask.address))

    async def _remove(self, caller: Caller, _: Nothing) -> Done:
        await self._users.remove(caller.me, caller.now_ms)
        return Done()

    def _view(self, user: User) -> Profile:
        return Profile(
            user=build_user_id(user.user),
            name=user.name,
            addresses=user.addresses,
            is_discoverable=user.is_discoverable,
            mailbox=self._users.mailbox(user),
        )

"""The bindings of one device in the order they were asked for; knows which one a NOTIFY is for (A5)."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.client.events import Binding, BindState


class Bindings:
    def __init__(self) -> None:
        self._all: dict[tuple[str, str], Binding] = {}
        self._by_token: dict[str, Binding] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Binding]:
        return iter(list(self._all.values()))

    def put(self, binding: Binding) -> None:
        """As the newest: REGISTERs of a new link keep this order, so that the last account wins again."""
        known = self._all.pop(binding.key, None)
        assert known is None or known is binding
        self._all[binding.key] = binding

    def find(self, app: str, account: str) -> Binding | None:
        return self._all.get((app, account))

    def remove(self, binding: Binding) -> None:
        if self._all.get(binding.key) is binding:
            del self._all[binding.key]
        if self._by_token.get(binding.token) is binding:
            del self._by_token[binding.token]

    def others(self, binding: Binding) -> list[Binding]:
        """Other accounts of the same app."""
        return [b for b in self._all.values() if b.app == binding.app and b is not binding]

    def bind(self, binding: Binding, token: str) -> bool:
        """TOKEN came; True where the token is another than before (or the first)."""
        changed = binding.token != token
        if self._by_token.get(binding.token) is binding:
            del self._by_token[binding.token]
        binding.token = token
        binding.state = BindState.BOUND
        binding.on_link = True
        self._by_token[token] = binding
        return changed

    def unbind_all(self) -> None:
        """The link is gone: nothing is bound on the next one until its TOKEN comes."""
        self._by_token.clear()
        for binding in self._all.values():
            binding.state = BindState.WANTED
            binding.on_link = False
            binding.retry_at = binding.fetch_at = 0.0
            binding.fetch = None
            binding.fetch_blocked, binding.fetches_blocked = False, 0

    def of_token(self, token: str) -> Binding | None:
        binding = self._by_token.get(token)
        return binding if binding is not None and binding.is_live else None

    def of_app(self, app: str, id: int) -> Binding | None:
        """Who gets a broadcast: the account of the app that has its light form, else the newest, once (A4)."""
        live = [b for b in self._all.values() if b.app == app and b.is_live]
        return next((b for b in live if id in b.held), live[-1] if live else None)

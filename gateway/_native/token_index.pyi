from typing import final

from typing_extensions import Buffer

@final
class TokenIndex:
    """16-byte random token → 31-bit registration number; at most 32 bytes an entry."""
    def __len__(self) -> int: ...
    def put(self, token: Buffer, number: int) -> bool:
        """True: new entry; False: an entry was replaced."""
    def find(self, token: Buffer) -> int:
        """-1 where there is none."""
    def find_many(self, tokens: Buffer) -> list[int]:
        """Packed 16-byte tokens, looked up with prefetch."""
    def remove(self, token: Buffer) -> bool: ...
    @property
    def memory_bytes(self) -> int: ...

from typing_extensions import Buffer

def build_blocks(seqs: Buffer) -> bytes:
    """Of each sequence (u64) a block of 16 bytes: big-endian, and zeros."""

def pack_results(seqs: Buffer, blocks: bytes, others: list[bytes]) -> bytes:
    """A packed msgpack array with a result for each sequence (u64): its block as 22 characters of base64url; where it
    is 0, the next of `others`, which is packed already. ValueError where their numbers do not fit."""

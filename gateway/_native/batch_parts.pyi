from typing_extensions import Buffer

def split(
    pushes: bytes | memoryview,
    partition_of_slot: Buffer,
    otherwise: int,
    most: int,
    *,
    push_bytes: int,
    inline_bytes: int,
    most_ttl_s: int,
) -> list[tuple[int, int, bytes, bytes, bool]]:
    """The first `most` of a packed array of pushes, told apart: (partition, pushes, packed array of them, u32 place of
    each in the batch, are all of them plain by these bounds?) in the order in which the partitions come up.
    `partition_of_slot`: 1,024 u16 by the first ten bits of a token; `otherwise`: of what names none. ValueError: this
    is no array, or it is cut."""

def scatter(seqs: Buffer, places: bytes, first: int) -> None:
    """seqs[places[i]] = first + i for all i, with u64 sequences and u32 places. IndexError, and nothing is done."""

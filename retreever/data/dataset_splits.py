"""Splits for sources without dev and test splits of their own."""

import hashlib


def assign_split_by_hash(key: str, dev: float = 0.1, test: float = 0.1) -> str:
    """Choose 'train', 'dev' or 'test' by the SHA-256 of `key`: the same on every machine and in any order.

    Args:
        dev, test: shares of all keys, in [0, 1].

    >>> assign_split_by_hash("asyncio.gather")
    'test'
    """
    number = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    place = number / 2**64
    return "test" if place < test else "dev" if place < test + dev else "train"

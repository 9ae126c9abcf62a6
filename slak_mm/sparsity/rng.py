import hashlib

import torch


def generator(seed: int, step: int, name: str) -> torch.Generator:
    """A CPU generator that depends on (seed, step, name of the layer) and on nothing else.

    So every rank draws the same numbers without any traffic, a resumed run draws what the unbroken one would have
    drawn, and torch's global RNG is left alone.
    """
    digest = hashlib.blake2b(f'{seed}/{step}/{name}'.encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, 'little'))

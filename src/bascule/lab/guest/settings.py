"""The `bascule.*` words of the kernel command line."""

from __future__ import annotations


class Settings:
    """What this guest is asked to do.

    `dirty_mib` of memory are rewritten at `rate_mb_s` (1 MB is 1,000,000 bytes); `sequence` asks for numbered records
    on the first virtio disk and on the network; `injection` lets clients damage the memory to prove that the check
    works.
    """

    __slots__ = ("dirty_mib", "injection", "rate_mb_s", "sequence")

    def __init__(self, dirty_mib: int, rate_mb_s: float, sequence: bool, injection: bool) -> None:
        self.dirty_mib = dirty_mib
        self.rate_mb_s = rate_mb_s
        self.sequence = sequence
        self.injection = injection


def parse(command_line: str) -> Settings:
    """Read the kernel command line; words that are missing mean an idle guest.

    Raises ValueError for a value that is no number: a guest that does something else than asked is worse
    than one that does not come up.
    """
    words = dict(word.split("=", 1) for word in command_line.split() if "=" in word)
    return Settings(
        dirty_mib=int(words.get("bascule.dirty_mib", "0")),
        rate_mb_s=float(words.get("bascule.rate_mb_s", "0")),
        sequence=words.get("bascule.sequence") == "1",
        injection=words.get("bascule.injection") == "1",
    )

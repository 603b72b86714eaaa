"""Memory that is rewritten all the time, and checked before each rewriting.

Every block holds a slice of one random pool. Where the slice starts follows from the block's number and the pass, so
that each page of a block has a content of its own in each pass: the slice *is* the sequence number. A page that was
lost, swapped or left behind from an earlier pass shows when its block is compared before it is overwritten, and that
happens to all of the memory once a pass. A block costs one memcmp and one memcpy; nothing else would be fast enough
under software emulation.

The slices of neighbouring blocks start a golden section apart, so that a compressor whose window is smaller than the
pool finds no repetition.
"""

from __future__ import annotations

BLOCK_BYTES = 65536
PAGE_BYTES = 4096
POOL_BYTES = 4 << 20
# Slices start on cache lines: copies that are not aligned cost several times more under TCG.
_GRANULE_BYTES = 64
_GRANULES = POOL_BYTES // _GRANULE_BYTES
# Odd: a block meets a content that it had before only after _GRANULES passes.
_PASS_STEP = 27_331
_BLOCK_STEP = 40_503  # _GRANULES divided by the golden section
_STORIES_KEPT = 8
_AGES_TRIED = 100
_AGE_BYTES = 16


class Dirtier:
    """`size_mib` of memory, of which `step` checks and rewrites the next block.

    `corrupt_blocks` counts blocks that did not hold what was written; `stories` has the first few as JSON objects.
    """

    def __init__(self, size_mib: int, pool: bytes) -> None:
        """Fill nothing yet: the first pass of steps does. `pool` is POOL_BYTES of random."""
        self.blocks_total = (size_mib << 20) // BLOCK_BYTES
        self.passes = 0
        self.blocks_written = 0
        self.blocks_checked = 0
        self.corrupt_blocks = 0
        self.stories: list[str] = []
        # A slice may start anywhere in the pool, hence the tail.
        self._pool = memoryview(pool + pool[:BLOCK_BYTES])
        self._blocks: list[bytearray] = []
        self._views: list[memoryview] = []
        self._next = 0

    def _slice(self, block: int, number: int) -> memoryview:
        """What `block` holds after pass `number`."""
        start = (block * _BLOCK_STEP + number * _PASS_STEP) % _GRANULES * _GRANULE_BYTES
        return self._pool[start : start + BLOCK_BYTES]

    def step(self) -> None:
        """Check one block and give it the content of the current pass."""
        block = self._next
        fresh = self._slice(block, self.passes)
        if self.passes:
            # `bytearray != memoryview` is one memcmp; between two memoryviews it would go byte by byte.
            if self._blocks[block] != self._slice(block, self.passes - 1):
                self._found(block)
            self.blocks_checked += 1
            self._views[block][:] = fresh
        else:
            content = bytearray(fresh)
            self._blocks.append(content)
            self._views.append(memoryview(content))
        self.blocks_written += 1
        self._next = block + 1
        if self._next == self.blocks_total:
            self._next = 0
            self.passes += 1

    def _found(self, block: int) -> None:
        """Count a corrupt block, and tell the story of the first few."""
        self.corrupt_blocks += 1
        if len(self.stories) == _STORIES_KEPT:
            return
        have, want = self._blocks[block], self._slice(block, self.passes - 1)
        wrong = [at for at in range(BLOCK_BYTES) if have[at] != want[at]]
        first, end = wrong[0], wrong[-1] + 1
        self.stories.append(
            f'{{"block":{block},"pass":{self.passes - 1},"first_byte":{first},"last_byte":{end - 1},'
            f'"wrong_bytes":{len(wrong)},"stale_passes":{self._age(block, first, end)}}}'
        )

    def _age(self, block: int, first: int, end: int) -> int:
        """How many passes too old the bytes from `first` to `end` are; 0 if they are of no recent pass."""
        if end - first < _AGE_BYTES:
            return 0  # so few are like those of some pass by chance
        have = self._blocks[block][first:end]
        for age in range(1, min(_AGES_TRIED, self.passes)):
            if have == self._slice(block, self.passes - 1 - age)[first:end]:
                return age
        return 0

    def flip_byte(self) -> None:
        """Damage one byte, as a broken copy would. Only after the first pass."""
        self._views[self._victim()][12_345] ^= 0xFF

    def age_page(self) -> None:
        """Put back what a page held one pass earlier, as a lost dirty bit would. Only after the second pass."""
        block = self._victim()
        held = self.passes if block < self._next else self.passes - 1
        page = slice(2 * PAGE_BYTES, 3 * PAGE_BYTES)
        self._views[block][page] = self._slice(block, held - 1)[page]

    def _victim(self) -> int:
        """The block that was rewritten last, so that damage stays as long as it can."""
        return (self._next or self.blocks_total) - 1

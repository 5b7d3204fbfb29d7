"""Models of other allocators' documented policies, to compare with where the products cannot run.

They count bytes and driver calls and touch no memory. What they follow is what PyTorch documents of its caching
allocator (torch.cuda memory management notes, PYTORCH_CUDA_ALLOC_CONF, comments in its source), default settings:

Caching        requests rounded up to 512 B; up to 1 MiB from 2 MiB segments ("small"), under 10 MiB from 20 MiB
               segments, above from a segment of their own rounded up to 2 MiB. Best fit among free blocks of the same
               stream and pool; split if 512 B remain (small) or more than 1 MiB (large). Free blocks merge within a
               segment. When the device has no more: all segments without a block are given back, then once more.
Expandable     one growing segment per stream and pool, mapped in pieces of 2 MiB (small) or 20 MiB (large); split from
               512 B on. When the device has no more: pieces without a block are unmapped, then once more.

Both: a block that another stream used is free only when the host has waited for the step (events, in the product).
They are models of a policy, not the product: the product's event timing, fragmentation by the CUDA driver and whatever
its documentation leaves out are missing. cudaMallocAsync is not modelled: its pool is closed.
"""
from bisect import bisect_left, insort

from gpu_report_trace import ALLOC, FREE, STEP, USED

KIB, MIB = 1 << 10, 1 << 20
SMALL_MAX, SMALL_SEGMENT, LARGE_SEGMENT, OWN_SEGMENT_MIN, OWN_SEGMENT_ROUND = MIB, 2 * MIB, 20 * MIB, 10 * MIB, 2 * MIB


class OutOfMemory(Exception):
    pass


def up(n, unit):
    return (n + unit - 1) // unit * unit


class Block:
    __slots__ = ("size", "at", "pool", "free", "mapped", "before", "after", "others")

    def __init__(self, at, size, pool, mapped=True):
        self.at, self.size, self.pool, self.mapped = at, size, pool, mapped
        self.free, self.before, self.after, self.others = True, None, None, False

    def __lt__(self, other):  # order of a pool: by size, then by address
        return (self.size, self.at) < (other.size, other.at)


class Pool:
    """Free, mapped blocks of one stream and one kind (small or large)."""

    def __init__(self, small):
        self.small = small
        self.blocks = []
        self.last = None  # expandable: the end of the segment

    def best(self, size):
        """Takes the best fit out, or None."""
        probe = Block(-1, size, self)
        place = bisect_left(self.blocks, probe)
        return self.blocks.pop(place) if place < len(self.blocks) else None

    def add(self, block):
        insort(self.blocks, block)

    def remove(self, block):
        place = bisect_left(self.blocks, block)
        assert self.blocks[place] is block
        self.blocks.pop(place)


class Caching:
    name = "native caching allocator"

    def __init__(self, limit_bytes):
        self.limit = limit_bytes
        self.reserved = self.reserved_peak = self.calls = 0
        self.pools = {}
        self.address = 0
        self.used_elsewhere = []

    # --- memory of the device ---

    def take(self, nbytes):
        if self.reserved + nbytes > self.limit:
            return False
        self.calls += 1
        self.reserved += nbytes
        self.reserved_peak = max(self.reserved_peak, self.reserved)
        return True

    def give(self, nbytes):
        self.calls += 1
        self.reserved -= nbytes

    # --- policy ---

    def pool(self, size, stream):
        key = (size <= SMALL_MAX, stream)
        if key not in self.pools:
            self.pools[key] = Pool(key[0])
        return self.pools[key]

    def remainder_min(self, pool):
        return 512 if pool.small else MIB + 1

    def grow(self, pool, size):
        """A free block of at least `size` that is in no list, from the device; or None."""
        nbytes = LARGE_SEGMENT if size < OWN_SEGMENT_MIN else up(size, OWN_SEGMENT_ROUND)
        if pool.small:
            nbytes = SMALL_SEGMENT
        if not self.take(nbytes):
            return None
        self.address += 1 << 40  # segments never touch
        return Block(self.address, nbytes, pool)

    def release(self):
        """Gives back what holds no block."""
        self.settle()
        for pool in self.pools.values():
            for block in [b for b in pool.blocks if b.before is None and b.after is None]:
                pool.remove(block)
                self.give(block.size)

    def alloc(self, nbytes, stream):
        size = up(max(nbytes, 1), 512)
        pool = self.pool(size, stream)
        block = pool.best(size) or self.grow(pool, size)
        if block is None:
            self.release()
            block = pool.best(size) or self.grow(pool, size)
        if block is None:
            raise OutOfMemory
        block.free = False
        if block.size - size >= self.remainder_min(pool):
            rest = Block(block.at + size, block.size - size, pool)
            rest.before, rest.after, block.after = block, block.after, rest
            if rest.after:
                rest.after.before = rest
            block.size = size
            pool.add(rest)
        return block

    def merge(self, block, other):
        """`other` goes into `block`; both free, neighbours."""
        if other.at < block.at:
            block.at, block.before = other.at, other.before
            if block.before:
                block.before.after = block
        else:
            block.after = other.after
            if block.after:
                block.after.before = block
        block.size += other.size

    def free_now(self, block):
        block.free, block.others = True, False
        for other in (block.before, block.after):
            if other and other.free and other.mapped:
                block.pool.remove(other)
                self.merge(block, other)
        block.pool.add(block)

    def free(self, block):
        if block.others:
            self.used_elsewhere.append(block)
        else:
            self.free_now(block)

    def settle(self):
        """The host has waited: other streams are done."""
        for block in self.used_elsewhere:
            self.free_now(block)
        self.used_elsewhere = []


class Expandable(Caching):
    name = "native caching allocator, expandable segments"

    def remainder_min(self, pool):
        return 512

    def segment(self, pool):
        """The pool's addresses: one gap, far longer than any device."""
        self.address += LARGE_SEGMENT << 22  # a multiple of both pieces
        pool.last = Block(self.address, LARGE_SEGMENT << 21, pool, mapped=False)

    def candidate(self, pool, size):
        """Where the lowest run of free and unmapped blocks begins that is long enough: a gap, or a free block with a
        gap right behind it."""
        found, run, block = None, 0, pool.last
        while block:
            before = block.before
            if block.mapped and not block.free:
                run = 0
            else:
                run += block.size
                if run >= size and not block.mapped:
                    found = before if before and before.free and before.mapped else block
                elif run >= size and block.after and not block.after.mapped:
                    found = block
            block = before
        return found

    def grow(self, pool, size):
        piece = SMALL_SEGMENT if pool.small else LARGE_SEGMENT
        if pool.last is None:
            self.segment(pool)
        block = self.candidate(pool, size)
        if block.mapped:
            pool.remove(block)
        else:
            mapped = self.map(block, size, piece)
            if mapped is None:
                return None
            block = mapped
        while True:
            if block.after and block.after.mapped and block.after.free:
                pool.remove(block.after)
                self.merge(block, block.after)
            if block.size >= size:
                return block
            mapped = self.map(block.after, size - block.size, piece)
            if mapped is None:
                pool.add(block)
                return None
            self.merge(block, mapped)

    def map(self, gap, size, piece):
        """Pieces for `size` bytes at the start of a gap: a free block in no list; None: the device has no more."""
        nbytes = min(up(size, piece), gap.size)
        if not self.take(nbytes):
            return None
        self.calls += 2 * (nbytes // piece)  # create and map each piece; take counted the access call
        block = Block(gap.at, nbytes, gap.pool)
        block.before, block.after = gap.before, gap
        if block.before:
            block.before.after = block
        gap.before = block
        gap.at += nbytes
        gap.size -= nbytes
        if gap.size == 0:
            block.after = gap.after
            if gap.after:
                gap.after.before = block
        return block

    def release(self):
        self.settle()
        for pool in self.pools.values():
            piece = SMALL_SEGMENT if pool.small else LARGE_SEGMENT
            for block in list(pool.blocks):
                low, high = up(block.at, piece), (block.at + block.size) // piece * piece
                if low < high:
                    pool.remove(block)
                    self.unmap(pool, block, low, high)
                    self.calls += 2 * ((high - low) // piece) - 1
                    self.give(high - low)

    def unmap(self, pool, block, low, high):
        """Cuts [low, high) out of a free block that is in no list."""
        chain, at = [], block.at
        for end, mapped in ((low, True), (high, False), (block.at + block.size, True)):
            if end > at:
                chain.append(Block(at, end - at, pool, mapped))
                at = end
        before, after = block.before, block.after
        for piece in chain:
            piece.before = before
            if before:
                before.after = piece
            before = piece
            if piece.mapped:
                pool.add(piece)
        before.after = after
        if after:
            after.before = before
        if after and not after.mapped and not before.mapped:  # two gaps become one
            before.size += after.size
            before.after = after.after
            if after.after:
                after.after.before = before
            if pool.last is after:
                pool.last = before
        first = chain[0]
        if not first.mapped and first.before and not first.before.mapped:
            gap = first.before
            gap.size += first.size
            gap.after = first.after
            if first.after:
                first.after.before = gap
            if pool.last is first:
                pool.last = gap


MODELS = {"native": Caching, "expandable": Expandable}


def replay(model, events):
    """Runs a trace; returns (live bytes at the peak of reserved, mean of reserved over live at the end of steps).

    Raises OutOfMemory where the model has none left."""
    blocks, sizes, live, live_peak = {}, {}, 0, 0
    for event in events:
        kind = event[0]
        if kind == ALLOC:
            _, number, nbytes, stream = event
            blocks[number] = model.alloc(nbytes, stream)
            sizes[number] = nbytes
            live += nbytes
            live_peak = max(live_peak, live)
        elif kind == FREE:
            live -= sizes.pop(event[1])
            model.free(blocks.pop(event[1]))
        elif kind == USED:
            blocks[event[1]].others = True
        elif kind == STEP:
            model.settle()
    return live_peak

/* large: see large.h. Unslotted blocks are at the end of this file. */
#include "alloc/large.h"

#include <string.h>

#include "os/os.h"
#include "page/arena.h"
#include "page/fill.h"

static size_t slot_bytes(uint32_t slot_class) { return LARGE_SLOT_MIN << slot_class; }
static size_t table_bytes(uint32_t slot_count) { return sizeof(large_table) + slot_count * sizeof(large_slot); }
static char *slot_address(const large_slot *s)
{
    return s->table->base + (size_t)(s - s->table->slots) * slot_bytes(s->table->slot_class);
}

static size_t page_round(const large *l, size_t bytes)
{
    size_t page = provider_page_bytes(l->provider);
    return align_up(bytes, page < CHUNK_BYTES ? CHUNK_BYTES : page);
}

static void *unslotted_alloc(large *l, size_t bytes, size_t align);
static bool unslotted_find(const void *p, large **l, size_t *bytes);
static size_t unslotted_free(large *l, void *p);
static void unslotted_destroy(large *l);

void large_init(large *l, void *heap, const acre_provider *provider, account *acc, page_policy policy)
{
    memset(l, 0, sizeof *l);
    l->heap = heap;
    l->provider = provider;
    l->account = acc;
    l->policy = policy;
}

/* --- lists of free slots, under the lock ------------------------------------------------------------------------ */

static void push(large_list *list, large_slot *s)
{
    s->prev = NULL;
    s->next = list->head;
    if (list->head) list->head->prev = s;
    else list->tail = s;
    list->head = s;
}

static void unlink_slot(large_list *list, large_slot *s)
{
    if (s->prev) s->prev->next = s->next;
    else list->head = s->next;
    if (s->next) s->next->prev = s->prev;
    else list->tail = s->prev;
}

/* --- tables ----------------------------------------------------------------------------------------------------- */

static bool add_table(large *l, uint32_t slot_class)
{
    size_t slot = slot_bytes(slot_class), region = region_bytes();
    uint32_t regions = (uint32_t)(slot <= region ? 1 : slot / region);
    uint32_t slots = (uint32_t)(regions * region / slot);
    large_table *t = arena_alloc(table_bytes(slots));
    if (!t) return false;
    t->owner = l;
    t->slot_class = slot_class;
    t->slot_count = slots;
    t->base = space_take(SPACE_LARGE, regions, REGION_LARGE, t);
    if (!t->base) {
        arena_free(t, table_bytes(slots));
        return false;
    }
    t->next = l->tables;
    if (l->tables) l->tables->prev = t;
    l->tables = t;
    for (uint32_t i = slots; i-- > 0;) {
        t->slots[i].table = t;
        push(&l->clean[slot_class], &t->slots[i]);
    }
    return true;
}

/* No slot of it holds a block or memory. */
static void remove_table(large *l, large_table *t)
{
    for (uint32_t i = 0; i < t->slot_count; i++) unlink_slot(&l->clean[t->slot_class], &t->slots[i]);
    if (t->prev) t->prev->next = t->next;
    else l->tables = t->next;
    if (t->next) t->next->prev = t->prev;
    space_give(t->base);
    arena_free(t, table_bytes(t->slot_count));
}

/* --- giving memory back, under the lock -------------------------------------------------------------------------- */

/* Takes the memory from behind [keep, committed). False: it stays. */
static bool cut_committed(large *l, large_slot *s, size_t keep)
{
    if (s->committed <= keep) return true;
    if (!provider_decommit(l->provider, slot_address(s) + keep, s->committed - keep)) return false;
    l->given_back += s->committed - keep;
    s->committed = keep;
    if (s->touched > keep) s->touched = keep;
    if (keep == 0) s->table->committed--;
    return true;
}

static bool make_clean(large *l, large_slot *s)
{
    size_t bytes = s->committed;
    large_table *t = s->table;
    if (!cut_committed(l, s, 0)) {
        s->freed_ms = (uint32_t)os_now_ms();
        return false;
    }
    l->cached -= bytes;
    unlink_slot(&l->dirty[t->slot_class], s);
    push(&l->clean[t->slot_class], s);
    if (t->used == 0 && t->committed == 0) remove_table(l, t);
    return true;
}

/* At most `most` slots, coldest first: while more than keep_bytes are cached or the coldest is too old. */
static void give_back(large *l, size_t keep_bytes, uint32_t now, uint32_t delay_ms, unsigned most)
{
    for (uint32_t c = 0; c < LARGE_SLOT_CLASSES; c++)
        while (most > 0 && l->dirty[c].tail &&
               (l->cached > keep_bytes || (uint32_t)(now - l->dirty[c].tail->freed_ms) >= delay_ms)) {
            if (!make_clean(l, l->dirty[c].tail)) return;
            most--;
        }
}

/* --- blocks ----------------------------------------------------------------------------------------------------- */

/* Makes the first `bytes` of the slot touchable. */
static bool commit_to(large *l, large_slot *s, size_t bytes)
{
    size_t to = page_round(l, bytes);
    if (to > slot_bytes(s->table->slot_class)) to = slot_bytes(s->table->slot_class);
    if (to <= s->committed) return true;
    if (!provider_commit(l->provider, slot_address(s) + s->committed, to - s->committed)) return false;
    if (l->policy.fill) memset(slot_address(s) + s->committed, FILL_MEMORY_ALLOCATED, to - s->committed);
    if (s->committed == 0) s->table->committed++;
    s->committed = to;
    return true;
}

static void count_slotted_peak(large *l)
{
    if (l->live - l->unslotted > l->slotted_peak) l->slotted_peak = l->live - l->unslotted;
}

/* Slots are aligned to their size as far as regions are: align <= region_bytes(). */
static void *slotted_alloc(large *l, size_t bytes, size_t align, bool *zeroed)
{
    size_t slot = bytes < align ? align : bytes;
    uint32_t c = slot <= LARGE_SLOT_MIN ? 0 : log2_ceil(slot) - log2_ceil(LARGE_SLOT_MIN);
    void *p = NULL;
    lock_acquire(&l->lock);
    bool dirty = l->dirty[c].head != NULL;
    large_slot *s = dirty ? l->dirty[c].head : l->clean[c].head;
    if (!s && add_table(l, c)) s = l->clean[c].head;
    if (!s) goto out;
    size_t before = s->committed;
    if (!commit_to(l, s, bytes)) goto out;
    /* A much smaller block than the last one does not keep the last one's memory; faulting a little of it in again
     * and again would cost more than it holds. */
    if (before > page_round(l, bytes) + bytes / 8) cut_committed(l, s, page_round(l, bytes));
    if (dirty) l->cached -= before;
    unlink_slot(dirty ? &l->dirty[c] : &l->clean[c], s);
    *zeroed = s->touched == 0 && provider_can(l->provider, ACRE_COMES_ZEROED) && !l->policy.fill;
    s->touched = s->committed;
    s->bytes = bytes;
    s->table->used++;
    l->live += bytes;
    l->live_blocks++;
    l->allocs++;
    count_slotted_peak(l);
    p = slot_address(s);
out:
    lock_release(&l->lock);
    return p;
}

/* A slot costs its addresses whatever is in it: in a small space a few would take those that small blocks need. */
static bool may_have_slot(size_t bytes)
{
    size_t slot = bytes <= LARGE_SLOT_MIN ? LARGE_SLOT_MIN : (size_t)1 << log2_ceil(bytes);
    return bytes <= LARGE_SLOT_MAX && slot <= the_space.bytes / 16;
}

void *large_alloc(large *l, size_t bytes, size_t align, bool *zeroed)
{
    if (bytes > SIZE_MAX / 4 || align > SIZE_MAX / 4) return NULL;
    size_t charge = page_round(l, bytes);
    if (!account_charge(l->account, charge)) return NULL;
    void *p = NULL;
    *zeroed = false;
    if (align <= region_bytes() && may_have_slot(bytes < align ? align : bytes))
        p = slotted_alloc(l, bytes, align, zeroed);
    if (!p && l->provider == acre_provider_flexible()) {
        p = unslotted_alloc(l, bytes, align);
        *zeroed = true;
    }
    if (!p) account_credit(l->account, charge);
    return p;
}

/* The slot that p is the start of; NULL: none. Needs no lock while the block is live. */
static large_slot *slot_of(const void *p)
{
    if (!space_contains(p)) return NULL;
    region *r = region_of(p);
    if (region_kind_of(r) != REGION_LARGE) return NULL;
    large_table *t = r->owner;
    size_t offset = (size_t)((const char *)p - t->base), slot = slot_bytes(t->slot_class);
    return offset % slot == 0 ? &t->slots[offset / slot] : NULL;
}

large *large_owner(const void *p, size_t *usable)
{
    large_slot *s = slot_of(p);
    if (s) {
        if (s->bytes == 0) return NULL;
        *usable = s->committed;
        return s->table->owner;
    }
    large *l;
    return !space_contains(p) && unslotted_find(p, &l, usable) ? l : NULL;
}

bool large_resize(large *l, void *p, size_t bytes)
{
    large_slot *s = slot_of(p);
    if (!s) {
        large *owner;
        size_t usable;
        return unslotted_find(p, &owner, &usable) && owner == l && bytes <= usable && bytes > usable / 2;
    }
    if (bytes > slot_bytes(s->table->slot_class)) return false;
    size_t before = page_round(l, s->bytes), after = page_round(l, bytes);
    if (after > before && !account_charge(l->account, after - before)) return false;
    bool ok = true;
    lock_acquire(&l->lock);
    if (after > s->committed) ok = commit_to(l, s, bytes);
    else cut_committed(l, s, after);
    if (ok) {
        s->touched = s->committed;
        l->live += bytes - s->bytes;
        s->bytes = bytes;
        count_slotted_peak(l);
    }
    lock_release(&l->lock);
    if (after > before && !ok) account_credit(l->account, after - before);
    if (after < before) account_credit(l->account, before - after);
    return ok;
}

acre_status large_free(large *l, void *p)
{
    large_slot *s = slot_of(p);
    if (!s) {
        size_t bytes = unslotted_free(l, p);
        account_credit(l->account, page_round(l, bytes));
        return bytes ? ACRE_OK : ACRE_FOREIGN_POINTER;
    }
    acre_status status = ACRE_OK;
    size_t charge = 0;
    uint64_t now = os_now_ms();
    lock_acquire(&l->lock);
    if (s->bytes == 0) {
        status = ACRE_DOUBLE_FREE;
        goto out;
    }
    charge = page_round(l, s->bytes);
    l->live -= s->bytes;
    l->live_blocks--;
    s->bytes = 0;
    s->freed_ms = (uint32_t)now;
    s->table->used--;
    l->cached += s->committed;
    if (l->policy.fill) memset(p, FILL_MEMORY_DEALLOCATED, s->committed);
    push(&l->dirty[s->table->slot_class], s);
    if (l->cached > l->policy.cache_bytes_max || now - l->checked_ms >= l->policy.delay_ms / 8) {
        l->checked_ms = now;
        give_back(l, l->policy.cache_bytes_max, (uint32_t)now, l->policy.delay_ms, 4);
    }
out:
    lock_release(&l->lock);
    account_credit(l->account, charge);
    return status;
}

bool large_is_free_slot(const void *p)
{
    large_slot *s = slot_of(p);
    return s && s->bytes == 0;
}

/* Is p the start of a live block of l with memory behind its first `bytes`? */
static bool is_backed(large *l, void *p, size_t bytes)
{
    size_t usable;
    const large_slot *s = slot_of(p);
    return large_owner(p, &usable) == l && (s ? s->committed : usable) >= bytes;
}

bool large_move(large *l, void *from, void *to, size_t usable)
{
    if (l->provider != acre_provider_flexible() || os_commit_is_charged()) return false;
    usable = align_up(usable, os_page_bytes());
    return is_backed(l, from, usable) && is_backed(l, to, usable) && os_move_pages(from, to, usable);
}

size_t large_trim(large *l, size_t keep_bytes)
{
    lock_acquire(&l->lock);
    uint64_t before = l->given_back;
    give_back(l, keep_bytes, 0, UINT32_MAX, UINT32_MAX);
    size_t bytes = (size_t)(l->given_back - before);
    lock_release(&l->lock);
    return bytes;
}

void large_tick(large *l, uint32_t delay_ms)
{
    uint64_t now = os_now_ms();
    if (!lock_try(&l->lock)) return;
    l->checked_ms = now;
    give_back(l, l->policy.cache_bytes_max, (uint32_t)now, delay_ms, 1);
    lock_release(&l->lock);
}

void large_destroy(large *l)
{
    lock_acquire(&l->lock);
    while (l->tables) {
        large_table *t = l->tables;
        l->tables = t->next;
        for (uint32_t i = 0; i < t->slot_count; i++) {
            large_slot *s = &t->slots[i];
            if (s->bytes) account_credit(l->account, page_round(l, s->bytes));
            if (s->committed) provider_drop(l->provider, slot_address(s), s->committed);
        }
        space_give(t->base);
        arena_free(t, table_bytes(t->slot_count));
    }
    lock_release(&l->lock);
    unslotted_destroy(l);
    large_init(l, l->heap, l->provider, l->account, l->policy);
}

void large_visit(large *l, void (*visit)(void *context, void *block, size_t bytes), void *context)
{
    lock_acquire(&l->lock);
    for (large_table *t = l->tables; t; t = t->next)
        for (uint32_t i = 0; i < t->slot_count; i++)
            if (t->slots[i].bytes) visit(context, slot_address(&t->slots[i]), t->slots[i].bytes);
    lock_release(&l->lock);
}

void large_usage_read(large *l, large_usage *slotted, large_usage *unslotted)
{
    lock_acquire(&l->lock);
    *slotted = (large_usage){
        .live = l->live - l->unslotted,
        .live_blocks = l->live_blocks - l->unslotted_blocks,
        .cached = l->cached,
        .peak = l->slotted_peak,
        .given_back = l->given_back - l->unslotted_given_back,
        .allocs = l->allocs,
    };
    for (const large_table *t = l->tables; t; t = t->next)
        for (uint32_t i = 0; i < t->slot_count; i++) slotted->committed += t->slots[i].committed;
    *unslotted = (large_usage){
        .live = l->unslotted,
        .live_blocks = l->unslotted_blocks,
        .committed = l->unslotted,
        .peak = l->unslotted_peak,
        .given_back = l->unslotted_given_back,
        .allocs = l->unslotted_allocs,
    };
    lock_release(&l->lock);
}

bool large_check(large *l)
{
    bool ok = true;
    size_t live = 0, cached = 0;
    lock_acquire(&l->lock);
    for (large_table *t = l->tables; t; t = t->next) {
        uint32_t used = 0, committed = 0;
        for (uint32_t i = 0; i < t->slot_count; i++) {
            large_slot *s = &t->slots[i];
            used += s->bytes != 0;
            committed += s->committed != 0;
            live += s->bytes;
            cached += s->bytes ? 0 : s->committed;
            ok = ok && s->bytes <= s->committed && s->touched <= s->committed;
            ok = ok && s->committed <= slot_bytes(t->slot_class);
        }
        ok = ok && used == t->used && committed == t->committed;
    }
    ok = ok && live + l->unslotted == l->live && cached == l->cached;
    lock_release(&l->lock);
    return ok;
}

/* --- unslotted blocks ------------------------------------------------------------------------------------------- */

typedef struct unslotted {
    char *address;
    size_t bytes; /* mapped */
    large *owner;
} unslotted;

/* One array for all heaps, so that an address finds its owner. Sorted by address. */
static struct {
    lock lock; /* taken inside of large.lock */
    unslotted *blocks;
    size_t count, capacity;
} outside;

/* The first block at or above p. */
static size_t outside_position(const void *p)
{
    size_t low = 0, high = outside.count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if ((uintptr_t)outside.blocks[middle].address < (uintptr_t)p) low = middle + 1;
        else high = middle;
    }
    return low;
}

static bool outside_make_room(void)
{
    if (outside.count < outside.capacity) return true;
    size_t capacity = outside.capacity ? outside.capacity * 2 : 64;
    unslotted *blocks = arena_alloc(capacity * sizeof *blocks);
    if (!blocks) return false;
    if (outside.count) memcpy(blocks, outside.blocks, outside.count * sizeof *blocks);
    arena_free(outside.blocks, outside.capacity * sizeof *blocks);
    outside.blocks = blocks;
    outside.capacity = capacity;
    return true;
}

static void *unslotted_alloc(large *l, size_t bytes, size_t align)
{
    size_t mapped = align_up(bytes, os_page_bytes());
    if (align < os_page_bytes()) align = os_page_bytes();
    char *p = os_reserve(mapped, align);
    if (!p) return NULL;
    if (!os_commit(p, mapped)) goto release;
    lock_acquire(&l->lock);
    lock_acquire(&outside.lock);
    bool ok = outside_make_room();
    if (ok) {
        size_t at = outside_position(p);
        memmove(outside.blocks + at + 1, outside.blocks + at, (outside.count - at) * sizeof *outside.blocks);
        outside.blocks[at] = (unslotted){p, mapped, l};
        outside.count++;
        l->live += mapped;
        l->live_blocks++;
        l->unslotted += mapped;
        l->unslotted_blocks++;
        l->unslotted_allocs++;
        if (l->unslotted > l->unslotted_peak) l->unslotted_peak = l->unslotted;
    }
    lock_release(&outside.lock);
    lock_release(&l->lock);
    if (ok) return p;
release:
    os_release(p, mapped);
    return NULL;
}

static bool unslotted_find(const void *p, large **l, size_t *bytes)
{
    lock_acquire(&outside.lock);
    size_t at = outside_position(p);
    bool found = at < outside.count && outside.blocks[at].address == p;
    if (found) {
        *l = outside.blocks[at].owner;
        *bytes = outside.blocks[at].bytes;
    }
    lock_release(&outside.lock);
    return found;
}

static void outside_remove(size_t at)
{
    outside.count--;
    memmove(outside.blocks + at, outside.blocks + at + 1, (outside.count - at) * sizeof *outside.blocks);
}

/* Returns the bytes that were mapped; 0: no such block. */
static size_t unslotted_free(large *l, void *p)
{
    size_t bytes = 0;
    lock_acquire(&l->lock);
    lock_acquire(&outside.lock);
    size_t at = outside_position(p);
    if (at < outside.count && outside.blocks[at].address == p && outside.blocks[at].owner == l) {
        bytes = outside.blocks[at].bytes;
        outside_remove(at);
        l->live -= bytes;
        l->live_blocks--;
        l->unslotted -= bytes;
        l->unslotted_blocks--;
        l->given_back += bytes;
        l->unslotted_given_back += bytes;
    }
    lock_release(&outside.lock);
    lock_release(&l->lock);
    if (bytes) os_release(p, bytes);
    return bytes;
}

static void unslotted_destroy(large *l)
{
    lock_acquire(&outside.lock);
    for (size_t i = outside.count; i-- > 0;)
        if (outside.blocks[i].owner == l) {
            account_credit(l->account, page_round(l, outside.blocks[i].bytes));
            os_release(outside.blocks[i].address, outside.blocks[i].bytes);
            outside_remove(i);
        }
    lock_release(&outside.lock);
}

lock *large_outside_lock(void) { return &outside.lock; }

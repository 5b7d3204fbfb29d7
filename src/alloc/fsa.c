/* fsa: see fsa.h for the protocol. */
#include "alloc/fsa.h"

#include <string.h>

#include "os/misuse.h"
#include "os/os.h"
#include "page/arena.h"

/* --- words ------------------------------------------------------------------------------------------------------ */

/* Gives the blocks in mask back; returns the word as it was. Bits that were set already stay as they are. While the
 * process has one thread a plain load and store do (Exgen-Malloc, 2025); the thread that ends this state starts
 * after the stores. */
static uint64_t word_return(_Atomic uint64_t *word, uint64_t mask)
{
    if (os_single_threaded()) {
        uint64_t old = atomic_load_explicit(word, memory_order_relaxed);
        atomic_store_explicit(word, old | mask, memory_order_relaxed);
        return old;
    }
    return atomic_fetch_or_explicit(word, mask, memory_order_seq_cst);
}

static uint64_t word_take(_Atomic uint64_t *word)
{
    if (os_single_threaded()) {
        uint64_t old = atomic_load_explicit(word, memory_order_relaxed);
        atomic_store_explicit(word, 0, memory_order_relaxed);
        return old;
    }
    return atomic_exchange_explicit(word, 0, memory_order_seq_cst);
}

static uint32_t state_of(const page_record *r) { return atomic_load_explicit(&r->state, memory_order_seq_cst); }

static uint64_t full_word(const page_record *r, uint32_t word)
{
    return word + 1u < r->words ? ~(uint64_t)0 : bits_mask(r->blocks - 64u * word);
}

static bool all_free(page_record *r)
{
    const _Atomic uint64_t *bits = page_bits(r);
    for (uint32_t i = 0; i < r->words; i++)
        if (atomic_load_explicit(&bits[i], memory_order_seq_cst) != full_word(r, i)) return false;
    return true;
}

static bool none_free(page_record *r)
{
    const _Atomic uint64_t *bits = page_bits(r);
    for (uint32_t i = 0; i < r->words; i++)
        if (atomic_load_explicit(&bits[i], memory_order_seq_cst) != 0) return false;
    return true;
}

static bool belongs(const fsa *f, uint32_t c, const page_record *r)
{
    return atomic_load_explicit(&r->class_, memory_order_relaxed) == c &&
           atomic_load_explicit(&r->heap, memory_order_relaxed) == f->heap;
}

/* --- the list of a class, under its lock ------------------------------------------------------------------------ */

static void list_push(fsa_class *k, uint32_t page)
{
    page_record *r = fsa_record(page);
    r->prev = 0;
    r->next = k->head;
    if (k->head) fsa_record(k->head)->prev = page;
    k->head = page;
    k->listed++;
}

static void list_remove(fsa_class *k, uint32_t page)
{
    page_record *r = fsa_record(page);
    if (r->prev) fsa_record(r->prev)->next = r->next;
    else k->head = r->next;
    if (r->next) fsa_record(r->next)->prev = r->prev;
    k->listed--;
}

/* --- pages ------------------------------------------------------------------------------------------------------ */

void fsa_init(fsa *f, uint16_t heap, bool in_class_table, const size_classes *sizes, page_pool *pool, account *acc)
{
    memset(f, 0, sizeof *f);
    f->heap = heap;
    f->in_class_table = in_class_table;
    f->sizes = sizes;
    f->pool = pool;
    f->account = acc;
}

/* A page of class c with all blocks free, attached to the caller; 0 = no memory. */
static uint32_t take_page(fsa *f, uint32_t c)
{
    bool zeroed;
    if (!account_charge(f->account, CHUNK_BYTES)) return 0;
    uint32_t page = page_pool_take(f->pool, &zeroed);
    if (!page) goto credit;
    page_record *r = fsa_record(page);
    r->words = f->sizes->words[c];
    r->blocks = f->sizes->blocks[c];
    if (r->words > PAGE_INLINE_WORDS) {
        r->external = arena_alloc(r->words * sizeof(uint64_t));
        if (!r->external) goto give;
    }
    _Atomic uint64_t *bits = page_bits(r);
    for (uint32_t i = 0; i < r->words; i++) atomic_store_explicit(&bits[i], full_word(r, i), memory_order_relaxed);
    atomic_store_explicit(&r->heap, f->heap, memory_order_relaxed);
    atomic_store_explicit(&r->class_, (uint8_t)c, memory_order_relaxed);
    if (f->in_class_table) the_space.page_class[page] = (uint8_t)c;
    atomic_fetch_add_explicit(&f->classes[c].pages, 1, memory_order_relaxed);
    return page;

give:
    r->words = 0;
    page_pool_give(f->pool, page);
credit:
    account_credit(f->account, CHUNK_BYTES);
    return 0;
}

/* The page is quiet and in no list. Called without locks. */
static void retire(fsa *f, uint32_t c, uint32_t page)
{
    page_record *r = fsa_record(page);
    if (f->in_class_table) the_space.page_class[page] = CLASS_NONE;
    atomic_store_explicit(&r->class_, CLASS_NONE, memory_order_relaxed);
    if (r->words > PAGE_INLINE_WORDS) arena_free(r->external, r->words * sizeof(uint64_t));
    r->words = 0;
    atomic_fetch_sub_explicit(&f->classes[c].pages, 1, memory_order_relaxed);
    page_pool_give(f->pool, page);
    account_credit(f->account, CHUNK_BYTES);
}

/* Puts a page that may have free blocks and no list into the list, or retires it when it is empty and not the last
 * one of its class (a class that hovers round a page's worth of blocks would take and retire the same page for ever). */
static void settle(fsa *f, uint32_t c, uint32_t page)
{
    fsa_class *k = &f->classes[c];
    page_record *r = fsa_record(page);
    bool quiet = false;
    lock_acquire(&k->lock);
    if (belongs(f, c, r)) {
        uint32_t unlisted = PAGE_UNLISTED;
        if (state_of(r) == PAGE_UNLISTED && !none_free(r) &&
            atomic_compare_exchange_strong_explicit(&r->state, &unlisted, PAGE_LISTED, memory_order_seq_cst,
                                                    memory_order_seq_cst))
            list_push(k, page);
        if (k->listed > 1 && state_of(r) == PAGE_LISTED && all_free(r)) {
            list_remove(k, page);
            atomic_store_explicit(&r->state, PAGE_ATTACHED, memory_order_relaxed);
            quiet = true;
        }
    }
    lock_release(&k->lock);
    if (quiet) retire(f, c, page);
}

/* Lets go of an exhausted page. True: a block came back meanwhile and the page is still ours. */
static bool let_go(uint32_t page)
{
    page_record *r = fsa_record(page);
    atomic_store_explicit(&r->state, PAGE_UNLISTED, memory_order_seq_cst);
    if (none_free(r)) return false;
    uint32_t unlisted = PAGE_UNLISTED;
    return atomic_compare_exchange_strong_explicit(&r->state, &unlisted, PAGE_ATTACHED, memory_order_seq_cst,
                                                   memory_order_seq_cst);
}

/* Gives the source a page with free blocks. */
static bool attach(fsa *f, uint32_t c, fsa_source *source)
{
    source->word = 0;
    if (source->page && let_go(source->page)) return true;
    fsa_class *k = &f->classes[c];
    lock_acquire(&k->lock);
    uint32_t page = k->head;
    if (page) {
        list_remove(k, page);
        atomic_store_explicit(&fsa_record(page)->state, PAGE_ATTACHED, memory_order_relaxed);
    }
    lock_release(&k->lock);
    if (!page) page = take_page(f, c);
    source->page = page;
    return page != 0;
}

/* --- taking and returning --------------------------------------------------------------------------------------- */

/* Makes pending non-zero. */
static bool take_word(fsa *f, uint32_t c, fsa_source *source)
{
    for (;;) {
        if (source->page) {
            page_record *r = fsa_record(source->page);
            _Atomic uint64_t *bits = page_bits(r);
            for (uint32_t i = source->word; i < r->words; i++) {
                if (atomic_load_explicit(&bits[i], memory_order_relaxed) == 0) continue;
                source->pending = word_take(&bits[i]);
                source->word_base = page_address(source->page) + (size_t)i * 64 * f->sizes->size[c];
                source->word = i + 1;
                return true;
            }
        }
        if (!attach(f, c, source)) return false;
    }
}

uint32_t fsa_refill(fsa *f, uint32_t c, fsa_source *source, void **slots, uint32_t want)
{
    const size_t size = f->sizes->size[c];
    uint32_t left = want;
    while (left > 0) {
        if (source->pending == 0) {
            /* A second page for one refill only when the first gave little. */
            bool at_end = source->page && source->word >= fsa_record(source->page)->words;
            if (at_end && want - left >= want / 2 && left < want) break;
            if (!take_word(f, c, source)) break;
        }
        /* Runs of neighbouring blocks, lowest first, written from the top down. */
        uint64_t m = source->pending;
        unsigned first = bits_lowest(m);
        uint64_t inverted = ~(m >> first);
        unsigned run = inverted ? bits_lowest(inverted) : 64;
        if (run > 64 - first) run = 64 - first;
        if (run > left) run = left;
        char *p = source->word_base + first * size;
        for (unsigned i = 0; i < run; i++, p += size) slots[--left] = p;
        source->pending = m & ~(bits_mask(run) << first);
    }
    uint32_t n = want - left;
    if (left > 0 && n > 0) memmove(slots, slots + left, n * sizeof *slots);
    return n;
}

void fsa_return(fsa *f, uint32_t c, void *const *blocks, uint32_t count)
{
    enum { AHEAD = 6 };
    const size_classes *sc = f->sizes;
    for (uint32_t i = 0; i < count;) {
        if (i + AHEAD < count) __builtin_prefetch(fsa_record(page_number(blocks[i + AHEAD])), 1);
        void *p = blocks[i++];
        uint32_t page = page_number(p);
        page_record *r = fsa_record(page);
        if (unlikely(!belongs(f, c, r))) {
            misuse(ACRE_DOUBLE_FREE, "free", p);
            continue;
        }
        if (unlikely(!fsa_is_block(sc, c, p))) {
            misuse(ACRE_FOREIGN_POINTER, "free", p);
            continue;
        }
        uint32_t index = size_class_index(sc, c, (uint32_t)(space_offset(p) & (CHUNK_BYTES - 1)));
        uint32_t word = index >> 6;
        uint64_t mask = (uint64_t)1 << (index & 63);
        /* Neighbours in the batch that fall into the same word ride along. */
        for (; i < count && page_number(blocks[i]) == page; i++) {
            uint32_t next = size_class_index(sc, c, (uint32_t)(space_offset(blocks[i]) & (CHUNK_BYTES - 1)));
            uint64_t bit = (uint64_t)1 << (next & 63);
            if (next >> 6 != word || (mask & bit) || !fsa_is_block(sc, c, blocks[i])) break;
            mask |= bit;
        }
        uint64_t old = word_return(&page_bits(r)[word], mask);
        if (unlikely(old & mask))
            misuse(ACRE_DOUBLE_FREE, "free",
                   page_address(page) + ((size_t)word * 64 + bits_lowest(old & mask)) * sc->size[c]);
        uint32_t state = state_of(r);
        if (state == PAGE_UNLISTED || (state == PAGE_LISTED && (old | mask) == full_word(r, word))) settle(f, c, page);
    }
}

void fsa_detach(fsa *f, uint32_t c, fsa_source *source)
{
    if (!source->page) return;
    page_record *r = fsa_record(source->page);
    if (source->pending)
        word_return(&page_bits(r)[source->word - 1], source->pending);
    atomic_store_explicit(&r->state, PAGE_UNLISTED, memory_order_seq_cst);
    settle(f, c, source->page);
    memset(source, 0, sizeof *source);
}

/* --- the whole heap --------------------------------------------------------------------------------------------- */

uint32_t fsa_trim(fsa *f)
{
    uint32_t retired = 0;
    for (uint32_t c = 1; c <= f->sizes->count; c++) {
        fsa_class *k = &f->classes[c];
        uint32_t quiet = 0; /* chain of pages to retire, by next */
        lock_acquire(&k->lock);
        for (uint32_t page = k->head, next; page; page = next) {
            page_record *r = fsa_record(page);
            next = r->next;
            if (!all_free(r)) continue;
            list_remove(k, page);
            atomic_store_explicit(&r->state, PAGE_ATTACHED, memory_order_relaxed);
            r->next = quiet;
            quiet = page;
        }
        lock_release(&k->lock);
        while (quiet) {
            uint32_t page = quiet;
            quiet = fsa_record(page)->next;
            retire(f, c, page);
            retired++;
        }
    }
    return retired;
}

/* The OS pages of a page that hold no part of a live block are given back. The page is attached to us, so that nobody
 * else takes a block from it: bits only turn from 0 to 1 meanwhile. */
static size_t purge_page_holes(fsa *f, uint32_t c, uint32_t page)
{
    const size_t os_page = os_page_bytes(), size = f->sizes->size[c];
    page_record *r = fsa_record(page);
    _Atomic uint64_t *bits = page_bits(r);
    size_t bytes = 0;
    for (size_t at = 0; at < CHUNK_BYTES;) {
        /* The longest run of OS pages from `at` whose blocks are all free. */
        size_t end = at;
        while (end < CHUNK_BYTES) {
            /* The blocks that touch it: */
            uint32_t first = (uint32_t)(end / size), last = (uint32_t)((end + os_page - 1) / size);
            bool free_page = true;
            for (uint32_t b = first; b <= last && b < r->blocks && free_page; b++)
                free_page = (atomic_load_explicit(&bits[b >> 6], memory_order_acquire) >> (b & 63)) & 1;
            if (!free_page) break;
            end += os_page;
        }
        if (end > at && provider_decommit(f->pool->provider, page_address(page) + at, end - at) &&
            provider_commit(f->pool->provider, page_address(page) + at, end - at))
            bytes += end - at;
        at = end + os_page;
    }
    return bytes;
}

size_t fsa_purge_holes(fsa *f)
{
    size_t bytes = 0;
    if (!provider_can(f->pool->provider, ACRE_CAN_DECOMMIT) || provider_page_bytes(f->pool->provider) > os_page_bytes())
        return 0;
    for (uint32_t c = 1; c <= f->sizes->count; c++) {
        fsa_class *k = &f->classes[c];
        lock_acquire(&k->lock);
        uint32_t left = k->listed;
        lock_release(&k->lock);
        /* One page after the other leaves the list (then nobody takes from it), is purged, and goes to the end. */
        uint32_t done = 0, done_tail = 0;
        while (left-- > 0) {
            lock_acquire(&k->lock);
            uint32_t page = k->head;
            if (page) {
                list_remove(k, page);
                atomic_store_explicit(&fsa_record(page)->state, PAGE_ATTACHED, memory_order_relaxed);
            }
            lock_release(&k->lock);
            if (!page) break;
            bytes += purge_page_holes(f, c, page);
            fsa_record(page)->next = 0;
            if (done_tail) fsa_record(done_tail)->next = page;
            else done = page;
            done_tail = page;
        }
        while (done) {
            uint32_t page = done;
            done = fsa_record(page)->next;
            atomic_store_explicit(&fsa_record(page)->state, PAGE_UNLISTED, memory_order_seq_cst);
            settle(f, c, page);
        }
    }
    return bytes;
}

void fsa_destroy(fsa *f)
{
    for (uint32_t i = 0; i < the_space.region_count; i++) {
        region *g = &the_space.regions[i];
        if (region_kind_of(g) != REGION_FSA || g->owner != f->pool) continue;
        uint32_t first = page_number(region_address(i)), end = first + (uint32_t)(region_bytes() >> CHUNK_SHIFT);
        for (uint32_t page = first ? first : 1; page < end; page++) {
            page_record *r = fsa_record(page);
            uint32_t state = state_of(r);
            if (state == PAGE_NONE && page >= f->pool->bump && end == f->pool->bump_end) break;
            if (state < PAGE_ATTACHED) continue;
            uint32_t c = atomic_load_explicit(&r->class_, memory_order_relaxed);
            if (c == CLASS_NONE || !belongs(f, c, r)) continue;
            retire(f, c, page);
        }
    }
    for (uint32_t c = 1; c <= f->sizes->count; c++) f->classes[c].head = f->classes[c].listed = 0;
}

bool fsa_is_free(const size_classes *sc, uint32_t c, const void *p)
{
    page_record *r = fsa_record(page_number(p));
    uint32_t index = size_class_index(sc, c, (uint32_t)(space_offset(p) & (CHUNK_BYTES - 1)));
    return (atomic_load_explicit(&page_bits(r)[index >> 6], memory_order_acquire) >> (index & 63)) & 1;
}

/* Calls visit for each page of this heap. Pages come and go meanwhile; a page that is being set up may be missed. */
static void for_each_page(fsa *f, void (*visit)(fsa *, uint32_t page, void *), void *context)
{
    for (uint32_t i = 0; i < the_space.region_count; i++) {
        region *g = &the_space.regions[i];
        if (region_kind_of(g) != REGION_FSA || g->owner != f->pool) continue;
        uint32_t first = page_number(region_address(i)), end = first + (uint32_t)(region_bytes() >> CHUNK_SHIFT);
        if (end == f->pool->bump_end) end = f->pool->bump;
        for (uint32_t page = first ? first : 1; page < end; page++) {
            page_record *r = fsa_record(page);
            uint32_t c = atomic_load_explicit(&r->class_, memory_order_relaxed);
            if (state_of(r) >= PAGE_ATTACHED && c != CLASS_NONE && belongs(f, c, r)) visit(f, page, context);
        }
    }
}

static void count_page(fsa *f, uint32_t page, void *context)
{
    (void)f;
    fsa_usage *usage = context;
    page_record *r = fsa_record(page);
    uint32_t c = atomic_load_explicit(&r->class_, memory_order_relaxed), free_blocks = 0;
    _Atomic uint64_t *bits = page_bits(r);
    for (uint32_t i = 0; i < r->words; i++) free_blocks += bits_count(atomic_load_explicit(&bits[i], memory_order_relaxed));
    usage->pages[c]++;
    usage->taken[c] += r->blocks - free_blocks;
}

void fsa_usage_read(fsa *f, fsa_usage *usage)
{
    memset(usage, 0, sizeof *usage);
    for_each_page(f, count_page, usage);
}

static void check_page(fsa *f, uint32_t page, void *context)
{
    bool *ok = context;
    page_record *r = fsa_record(page);
    uint32_t c = atomic_load_explicit(&r->class_, memory_order_relaxed);
    *ok = *ok && c <= f->sizes->count && r->words == f->sizes->words[c] && r->blocks == f->sizes->blocks[c];
    *ok = *ok && (!f->in_class_table || the_space.page_class[page] == c);
    for (uint32_t i = 0; *ok && i < r->words; i++)
        *ok = (atomic_load_explicit(&page_bits(r)[i], memory_order_relaxed) & ~full_word(r, i)) == 0;
    /* An unlisted page has no free block: whoever gives one back lists it. Holds when nobody is at work. */
    *ok = *ok && (state_of(r) != PAGE_UNLISTED || none_free(r));
}

bool fsa_check(fsa *f)
{
    bool ok = true;
    for_each_page(f, check_page, &ok);
    for (uint32_t c = 1; c <= f->sizes->count; c++) {
        fsa_class *k = &f->classes[c];
        lock_acquire(&k->lock);
        uint32_t n = 0, prev = 0;
        for (uint32_t page = k->head; page && n <= k->listed; page = fsa_record(page)->next, n++) {
            page_record *r = fsa_record(page);
            ok = ok && r->prev == prev && state_of(r) == PAGE_LISTED && belongs(f, c, r);
            prev = page;
        }
        ok = ok && n == k->listed;
        lock_release(&k->lock);
    }
    return ok;
}

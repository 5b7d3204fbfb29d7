/* fsa: see fsa.h for the protocol. */
#include "alloc/fsa.h"

#include <string.h>

#include "os/misuse.h"
#include "os/os.h"
#include "page/arena.h"
#include "page/resident.h"

/* With several threads, blocks from this size on are taken from pages that a thread holds for one refill only, so that
 * the free blocks of a page serve all threads: 64 threads that each held a page of each class would hold 0.8 MB each.
 * Smaller blocks keep their page: two threads must not be handed neighbours in one cache line, and there is less in
 * it. */
enum { SHARED_SIZE_MIN = 128 };

/* Less than this at once is no cheaper than the page faults. */
#define POPULATE_LEAST ((size_t)16384)

/* Holes inside of pages are given back in pieces of 4 KiB, the smallest OS page there is; 16 bits tell of them. */
#define PURGE_BYTES ((size_t)4096)
enum { PURGE_PIECES = 16 };
_Static_assert(PURGE_PIECES * PURGE_BYTES == CHUNK_BYTES, "a bit per piece");

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

/* Takes the free blocks in mask; returns which those were. */
static uint64_t word_take(_Atomic uint64_t *word, uint64_t mask)
{
    if (os_single_threaded()) {
        uint64_t old = atomic_load_explicit(word, memory_order_relaxed);
        atomic_store_explicit(word, old & ~mask, memory_order_relaxed);
        return old & mask;
    }
    return atomic_fetch_and_explicit(word, ~mask, memory_order_seq_cst) & mask;
}

static uint32_t state_of(const page_record *r) { return atomic_load_explicit(&r->state, memory_order_seq_cst); }

static uint64_t full_word_of(uint32_t blocks, uint32_t word)
{
    return 64u * (word + 1) < blocks ? ~(uint64_t)0 : bits_mask(blocks - 64u * word);
}

static uint64_t full_word(const page_record *r, uint32_t word) { return full_word_of(r->blocks, word); }

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
    return atomic_load_explicit(&r->identity, memory_order_acquire) == page_identity(f->heap, c, f->sizes->words[c]);
}

static bool has_virgin(uint32_t page) { return fsa_record(page)->virgin < fsa_record(page)->blocks; }

/* --- the list of a class, under its lock ------------------------------------------------------------------------ */

static void list_push(fsa_class *k, uint32_t page)
{
    fsa_record(page)->cold = 0;
    page_list_push_head(&k->listed, page);
}

static void list_remove(fsa_class *k, uint32_t page)
{
    if (k->cursor == page) k->cursor = fsa_record(page)->prev;
    page_list_remove(&k->listed, page);
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

static void count_page_taken(fsa_kind *k)
{
    uint32_t pages = atomic_fetch_add_explicit(&k->pages, 1, memory_order_relaxed) + 1;
    uint32_t peak = atomic_load_explicit(&k->pages_peak, memory_order_relaxed);
    while (pages > peak && !atomic_compare_exchange_weak_explicit(&k->pages_peak, &peak, pages, memory_order_relaxed,
                                                                  memory_order_relaxed)) {}
}

/* A page of class c with all blocks free, attached to the caller; 0 = no memory. */
static uint32_t take_page(fsa *f, uint32_t c)
{
    bool zeroed;
    if (!account_charge(f->account, CHUNK_BYTES)) return 0;
    uint32_t page = page_pool_take(f->pool, &zeroed);
    if (!page) goto credit;
    page_record *r = fsa_record(page);
    const uint32_t words = f->sizes->words[c];
    _Atomic uint64_t *bits = r->bits;
    if (words > PAGE_INLINE_WORDS) {
        bits = arena_alloc(words * sizeof(uint64_t));
        if (!bits) goto give;
        r->external = bits;
    }
    r->blocks = f->sizes->blocks[c];
    for (uint32_t i = 0; i < words; i++) atomic_store_explicit(&bits[i], full_word(r, i), memory_order_relaxed);
    r->virgin = 0;
    atomic_fetch_add_explicit(&f->pool->partial, 1, memory_order_relaxed);
    r->bare = zeroed && !page_pool_is_huge(page);
    r->purged = 0;
    atomic_store_explicit(&r->hint, 0, memory_order_relaxed);
    atomic_store_explicit(&r->identity, page_identity(f->heap, c, words), memory_order_release);
    if (f->in_class_table) space_page_class[page] = (uint8_t)c;
    atomic_fetch_add_explicit(&f->classes[c].pages, 1, memory_order_relaxed);
    count_page_taken(&f->kinds[fsa_kind_of(f->sizes, c)]);
    return page;

give:
    page_pool_give(f->pool, page);
credit:
    account_credit(f->account, CHUNK_BYTES);
    return 0;
}

/* A listed page without a live block leaves the list and the class. Under the class's lock: a thread that gave one of
 * the last blocks back may still be on its way into settle, and must not take the page's next life for this one. */
static void disown(fsa_class *k, uint32_t page)
{
    page_record *r = fsa_record(page);
    list_remove(k, page);
    atomic_store_explicit(&r->state, PAGE_ATTACHED, memory_order_relaxed);
    atomic_store_explicit(&r->identity, page_identity(0, CLASS_NONE, 0), memory_order_release);
}

/* The page is quiet and disowned. Called without locks. */
static void retire(fsa *f, uint32_t c, uint32_t page)
{
    page_record *r = fsa_record(page);
    if (f->in_class_table) space_page_class[page] = CLASS_NONE;
    if (f->sizes->words[c] > PAGE_INLINE_WORDS) arena_free(r->external, f->sizes->words[c] * sizeof(uint64_t));
    atomic_fetch_sub_explicit(&f->classes[c].pages, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&f->kinds[fsa_kind_of(f->sizes, c)].pages, 1, memory_order_relaxed);
    if (has_virgin(page)) atomic_fetch_sub_explicit(&f->pool->partial, 1, memory_order_relaxed);
    page_pool_give(f->pool, page);
    account_credit(f->account, CHUNK_BYTES);
}

/* Puts a page that may have free blocks and no list into the list, or retires it when it is empty and not the last
 * one of its class (a class that hovers round a page's worth of blocks would take and retire the same page again and
 * again). */
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
                                                    memory_order_seq_cst)) {
            /* Untouched memory last: a page that has some waits at the end. */
            if (has_virgin(page)) page_list_push_tail(&k->listed, page);
            else list_push(k, page);
        }
        if (k->listed.count > 1 && state_of(r) == PAGE_LISTED && all_free(r)) {
            disown(k, page);
            quiet = true;
        }
    }
    lock_release(&k->lock);
    if (quiet) retire(f, c, page);
}

/* Lets go of an exhausted page. True: a block came back meanwhile and the page is still ours. Under the lock, which
 * keeps others from listing the page, retiring it, and making another class's out of it before we have looked. */
static bool let_go(fsa_class *k, uint32_t page)
{
    page_record *r = fsa_record(page);
    lock_acquire(&k->lock);
    atomic_store_explicit(&r->state, PAGE_UNLISTED, memory_order_seq_cst);
    bool ours = !none_free(r);
    if (ours) {
        atomic_store_explicit(&r->hint, 0, memory_order_relaxed);
        atomic_store_explicit(&r->state, PAGE_ATTACHED, memory_order_relaxed);
    }
    lock_release(&k->lock);
    return ours;
}

/* The class's first listed page, attached to the caller; 0 = none. */
static uint32_t take_listed(fsa_class *k)
{
    if (page_list_head(&k->listed) == 0) return 0;
    lock_acquire(&k->lock);
    uint32_t page = page_list_head(&k->listed);
    if (page) {
        list_remove(k, page);
        atomic_store_explicit(&fsa_record(page)->state, PAGE_ATTACHED, memory_order_relaxed);
    }
    lock_release(&k->lock);
    return page;
}

/* --- taking and returning --------------------------------------------------------------------------------------- */

static void set_pending(fsa *f, uint32_t c, fsa_source *source, uint32_t page, uint32_t word, uint64_t blocks)
{
    source->pending = blocks;
    source->word_base = page_address(page) + (size_t)word * 64 * f->sizes->size[c];
}

/* The OS pages, as bits of page_record.purged, that the blocks of a word touch. */
static uint32_t os_pages_of_word(const fsa *f, uint32_t c, uint32_t word)
{
    size_t span = (size_t)64 * f->sizes->size[c], first = word * span / PURGE_BYTES, last = (word + 1) * span - 1;
    last = last >= CHUNK_BYTES ? PURGE_PIECES - 1 : last / PURGE_BYTES;
    return (uint32_t)(bits_mask((unsigned)last + 1) & ~bits_mask((unsigned)first));
}

/* Blocks of this word are about to be used: what was given back beneath them will be faulted in. */
static void take_purged(const fsa *f, uint32_t c, page_record *r, uint32_t word)
{
    uint32_t back = r->purged & os_pages_of_word(f, c, word);
    r->purged = (uint16_t)(r->purged & ~back);
    resident_add(bits_count(back) * PURGE_BYTES);
}

/* A word of blocks that were in use before: their memory is there already. */
static bool take_recycled(fsa *f, uint32_t c, fsa_source *source, uint32_t page)
{
    page_record *r = fsa_record(page);
    _Atomic uint64_t *bits = page_bits(r);
    uint32_t used_words = (r->virgin + 63u) / 64;
    for (uint32_t i = atomic_load_explicit(&r->hint, memory_order_relaxed); i < used_words; i++) {
        uint64_t used = bits_mask(r->virgin - 64u * i);
        if ((atomic_load_explicit(&bits[i], memory_order_relaxed) & used) == 0) continue;
        /* before: a return after the take lowers it */
        atomic_store_explicit(&r->hint, (uint16_t)(i + 1), memory_order_relaxed);
        set_pending(f, c, source, page, i, word_take(&bits[i], used));
        if (!source->pending) continue;
        if (r->purged) take_purged(f, c, r, i);
        return true;
    }
    return false;
}

/* Fresh memory for the blocks in bytes [from, to) of a page. Where a class holds many pages already it most likely goes
 * on growing, and some OS pages at once are cheaper than a fault for each; never more than a 32nd of what it holds. Not
 * where each of many threads holds a page of its own. */
static void populate(const fsa *f, uint32_t c, uint32_t page, size_t from, size_t to)
{
    enum { SHARE = 32 };
    size_t held = (size_t)atomic_load_explicit(&f->classes[c].pages, memory_order_relaxed) << CHUNK_SHIFT;
    size_t batch = f->pool->policy.populate_bytes;
    while (batch > held / SHARE) batch /= 2;
    if (batch < POPULATE_LEAST) return;
    from = align_up(from, batch);
    if (from < to) os_populate(page_address(page) + from, align_up(to, batch) - from);
}

/* At most `want` blocks that were never in use, lowest first. The page has some. */
static void take_virgin(fsa *f, uint32_t c, fsa_source *source, uint32_t page, uint32_t want)
{
    page_record *r = fsa_record(page);
    uint32_t first = r->virgin, n = 64 - (first & 63);
    if (n > want) n = want;
    if (n > (uint32_t)r->blocks - first) n = (uint32_t)r->blocks - first;
    r->virgin = (first + n) & 0x3fff;
    if (r->virgin == r->blocks) atomic_fetch_sub_explicit(&f->pool->partial, 1, memory_order_relaxed);
    size_t size = f->sizes->size[c];
    if (r->bare && f->pool->policy.populate_bytes && (size >= SHARED_SIZE_MIN || os_single_threaded()))
        populate(f, c, page, first * size, (first + n) * size);
    set_pending(f, c, source, page, first >> 6, word_take(&page_bits(r)[first >> 6], bits_mask(n) << (first & 63)));
}

/* Makes pending non-zero. Memory that was touched before comes first, wherever it lies: the thread's own pages, then
 * those in the list; untouched memory costs page faults. */
static bool take_blocks(fsa *f, uint32_t c, fsa_source *source, uint32_t want)
{
    fsa_class *k = &f->classes[c];
    for (;;) {
        if (source->page) {
            if (take_recycled(f, c, source, source->page)) return true;
            if (has_virgin(source->page)) { /* somebody's fresh page that he gave up */
                if (source->fresh) {
                    take_virgin(f, c, source, source->page, want);
                    return true;
                }
                source->fresh = source->page;
            } else if (let_go(k, source->page)) {
                continue;
            }
            source->page = 0;
        }
        if (source->fresh && take_recycled(f, c, source, source->fresh)) return true;
        source->page = take_listed(k);
        if (source->page) continue;
        if (source->fresh) {
            if (has_virgin(source->fresh)) {
                take_virgin(f, c, source, source->fresh, want);
                return true;
            }
            if (let_go(k, source->fresh)) source->page = source->fresh;
            source->fresh = 0;
        } else {
            source->fresh = take_page(f, c);
            if (!source->fresh) return false;
        }
    }
}

uint32_t fsa_refill(fsa *f, uint32_t c, fsa_source *source, void **slots, uint32_t want)
{
    const size_t size = f->sizes->size[c];
    uint32_t left = want;
    while (left > 0) {
        if (source->pending == 0 && !take_blocks(f, c, source, left)) break;
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
    if (size >= SHARED_SIZE_MIN && !os_single_threaded()) fsa_detach(f, c, source);
    uint32_t n = want - left;
    if (left > 0 && n > 0) memmove(slots, slots + left, n * sizeof *slots);
    return n;
}

/* The blocks that lie in the same word as the first one, from there on in the batch, ride along: adds their bits to
 * *mask, counted from word_base, and returns how many there are. What is not plainly one of them ends the ride and
 * is looked at on its own. */
static uint32_t riders(void *const *blocks, uint32_t count, const char *word_base, size_t span, size_t size,
                       uint32_t inverse, uint64_t *mask)
{
    uint64_t m = *mask;
    uint32_t i = 0;
    for (; i < count; i++) {
        size_t at = (size_t)((uintptr_t)blocks[i] - (uintptr_t)word_base);
        if (at >= span) break;
        uint64_t index = at * inverse >> 32;
        if (index * size != at || ((m >> index) & 1)) break;
        m |= (uint64_t)1 << index;
    }
    *mask = m;
    return i;
}

void fsa_return(fsa *f, uint32_t c, void *const *blocks, uint32_t count)
{
    enum { AHEAD = 6 };
    const size_classes *sc = f->sizes;
    const size_t size = sc->size[c];
    const uint32_t inverse = sc->inverse[c], in_page = sc->blocks[c];
    for (uint32_t i = 0; i < count;) {
        if (i + AHEAD < count) __builtin_prefetch(fsa_record(page_number(blocks[i + AHEAD])), 1);
        char *p = blocks[i++];
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
        uint32_t word = index >> 6, in_word = in_page - 64 * word;
        uint64_t mask = (uint64_t)1 << (index & 63);
        char *word_base = p - (index & 63) * size;
        i += riders(blocks + i, count - i, word_base, (in_word < 64 ? in_word : 64) * size, size, inverse, &mask);
        /* Before the blocks are back: afterwards the page may be anybody's, and only its state may be read. */
        if (word < atomic_load_explicit(&r->hint, memory_order_relaxed))
            atomic_store_explicit(&r->hint, (uint16_t)word, memory_order_relaxed);
        uint64_t old = word_return(&page_bits(r)[word], mask);
        if (unlikely(old & mask)) misuse(ACRE_DOUBLE_FREE, "free", word_base + bits_lowest(old & mask) * size);
        uint32_t state = state_of(r);
        bool full = (old | mask) == full_word_of(in_page, word);
        if (state == PAGE_UNLISTED || (state == PAGE_LISTED && full)) settle(f, c, page);
    }
}

void fsa_detach(fsa *f, uint32_t c, fsa_source *source)
{
    if (source->pending) {
        page_record *r = fsa_record(page_number(source->word_base));
        uint32_t offset = (uint32_t)(space_offset(source->word_base) & (CHUNK_BYTES - 1));
        word_return(&page_bits(r)[size_class_index(f->sizes, c, offset) >> 6], source->pending);
        atomic_store_explicit(&r->hint, 0, memory_order_relaxed);
    }
    uint32_t pages[2] = {source->page, source->fresh};
    memset(source, 0, sizeof *source);
    for (int i = 0; i < 2; i++) {
        if (!pages[i]) continue;
        atomic_store_explicit(&fsa_record(pages[i])->state, PAGE_UNLISTED, memory_order_seq_cst);
        settle(f, c, pages[i]);
    }
}

void fsa_idle(fsa *f, uint32_t c)
{
    fsa_class *k = &f->classes[c];
    lock_acquire(&k->lock);
    uint32_t page = page_list_head(&k->listed);
    bool quiet = page && all_free(fsa_record(page));
    if (quiet) disown(k, page);
    lock_release(&k->lock);
    if (quiet) retire(f, c, page);
}

/* --- the whole heap --------------------------------------------------------------------------------------------- */

uint32_t fsa_trim(fsa *f)
{
    uint32_t retired = 0;
    for (uint32_t c = 1; c <= f->sizes->count; c++) {
        fsa_class *k = &f->classes[c];
        uint32_t quiet = 0; /* chain of pages to retire, by next */
        lock_acquire(&k->lock);
        for (uint32_t page = page_list_head(&k->listed), next; page; page = next) {
            page_record *r = fsa_record(page);
            next = r->next;
            if (!all_free(r)) continue;
            disown(k, page);
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

/* Are the blocks all free that touch sixteenth `piece` of the page? */
static bool piece_is_free(const fsa *f, uint32_t c, page_record *r, uint32_t piece)
{
    const size_t size = f->sizes->size[c], from = piece * PURGE_BYTES;
    const _Atomic uint64_t *bits = page_bits(r);
    uint32_t first = (uint32_t)(from / size), last = (uint32_t)((from + PURGE_BYTES - 1) / size);
    if (last >= r->blocks) last = r->blocks - 1u;
    for (uint32_t b = first; b <= last;) {
        uint32_t in_word = 64 - (b & 63), n = last - b + 1 < in_word ? last - b + 1 : in_word;
        uint64_t mask = bits_mask(n) << (b & 63);
        if ((atomic_load_explicit(&bits[b >> 6], memory_order_acquire) & mask) != mask) return false;
        b += n;
    }
    return true;
}

/* The OS pages of a page that hold no part of a live block are given back. The page is attached to us, so that nobody
 * else takes a block from it: bits only turn from 0 to 1 meanwhile. Returns bytes. */
static size_t purge_page_holes(fsa *f, uint32_t c, uint32_t page)
{
    page_record *r = fsa_record(page);
    uint32_t touched = (uint32_t)((r->virgin * (size_t)f->sizes->size[c] + PURGE_BYTES - 1) / PURGE_BYTES);
    size_t bytes = 0;
    for (uint32_t i = 0; i < touched;) {
        uint32_t n = 0;
        while (i + n < touched && !((r->purged >> (i + n)) & 1) && piece_is_free(f, c, r, i + n)) n++;
        char *at = page_address(page) + i * PURGE_BYTES;
        if (n) page_pool_hole(f->pool, page);
        if (n && provider_decommit(f->pool->provider, at, n * PURGE_BYTES) &&
            provider_commit(f->pool->provider, at, n * PURGE_BYTES)) {
            bytes += n * PURGE_BYTES;
            r->purged |= (uint16_t)(bits_mask(n) << i);
        }
        i += n + 1;
    }
    atomic_fetch_add_explicit(&f->kinds[fsa_kind_of(f->sizes, c)].holes_given_back, bytes, memory_order_relaxed);
    resident_sub(bytes);
    return bytes;
}

static bool can_purge_holes(const fsa *f)
{
    const acre_provider *p = f->pool->provider;
    bool fine_enough = provider_page_bytes(p) <= PURGE_BYTES && os_page_bytes() <= PURGE_BYTES;
    return fine_enough && provider_can(p, ACRE_CAN_DECOMMIT);
}

/* One step of a class's round. False: its list is empty, or it is not time for another round. */
static bool age_step(fsa *f, uint32_t c, uint32_t now_ms, uint32_t delay_ms)
{
    fsa_class *k = &f->classes[c];
    if (page_list_head(&k->listed) == 0) return false;
    if (!lock_try(&k->lock)) return false;
    if (k->cursor == 0 && k->listed.tail && now_ms - k->round_ms >= delay_ms / 2) {
        k->cursor = k->listed.tail;
        k->round_ms = now_ms;
    }
    uint32_t page = k->cursor;
    bool purge = false;
    if (page) {
        page_record *r = fsa_record(page);
        k->cursor = r->prev;
        purge = r->cold;
        r->cold = 1;
        if (purge) {
            list_remove(k, page);
            atomic_store_explicit(&r->state, PAGE_ATTACHED, memory_order_relaxed);
        }
    }
    lock_release(&k->lock);
    if (!purge) return page != 0;
    purge_page_holes(f, c, page);
    /* Back to the cold end. Blocks that came back meanwhile found the page attached and left it alone. */
    page_record *r = fsa_record(page);
    lock_acquire(&k->lock);
    page_list_push_tail(&k->listed, page);
    atomic_store_explicit(&r->state, PAGE_LISTED, memory_order_seq_cst);
    bool empty = all_free(r);
    if (empty) disown(k, page);
    lock_release(&k->lock);
    if (empty) retire(f, c, page);
    return true;
}

bool fsa_age(fsa *f, uint32_t now_ms, uint32_t delay_ms, uint32_t most)
{
    if (!can_purge_holes(f)) return false;
    uint32_t idle = 0;
    for (uint32_t looked = 0; looked < most && idle < f->sizes->count;) {
        uint32_t c = atomic_load_explicit(&f->age_class, memory_order_relaxed) % f->sizes->count + 1;
        if (age_step(f, c, now_ms, delay_ms)) {
            looked++;
            idle = 0;
        } else {
            atomic_store_explicit(&f->age_class, c, memory_order_relaxed);
            idle++;
        }
    }
    return idle < f->sizes->count;
}

size_t fsa_purge_holes(fsa *f)
{
    size_t bytes = 0;
    if (!can_purge_holes(f)) return 0;
    for (uint32_t c = 1; c <= f->sizes->count; c++) {
        fsa_class *k = &f->classes[c];
        lock_acquire(&k->lock);
        uint32_t left = k->listed.count;
        lock_release(&k->lock);
        /* One page after the other leaves the list (then nobody takes from it), is purged, and goes to the end. */
        uint32_t done = 0, done_tail = 0;
        while (left-- > 0) {
            uint32_t page = take_listed(k);
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
        end = page_pool_used_end(f->pool, end);
        for (uint32_t page = first ? first : 1; page < end; page++) {
            page_record *r = fsa_record(page);
            uint32_t state = state_of(r);
            if (state < PAGE_ATTACHED) continue;
            uint32_t c = atomic_load_explicit(&r->class_, memory_order_relaxed);
            if (c == CLASS_NONE || !belongs(f, c, r)) continue;
            atomic_store_explicit(&r->identity, page_identity(0, CLASS_NONE, 0), memory_order_release);
            retire(f, c, page);
        }
    }
    for (uint32_t c = 1; c <= f->sizes->count; c++) {
        fsa_class *k = &f->classes[c];
        k->listed = (page_list){0};
        k->cursor = 0;
    }
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
        end = page_pool_used_end(f->pool, end);
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
    for (uint32_t i = 0; i < r->words; i++)
        free_blocks += bits_count(atomic_load_explicit(&bits[i], memory_order_relaxed));
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
    *ok = *ok && (!f->in_class_table || space_page_class[page] == c);
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
        ok = ok && page_list_check(&k->listed, PAGE_LISTED);
        for (uint32_t page = page_list_head(&k->listed); ok && page; page = fsa_record(page)->next)
            ok = belongs(f, c, fsa_record(page));
        lock_release(&k->lock);
    }
    return ok;
}

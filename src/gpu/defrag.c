/* defrag: the choice of pages and the order of blocks; see defrag.h.
 *
 * Sorting is a heap sort over records of any size: no recursion, no memory, and no calls into the C library, whose
 * qsort may allocate. */
#include "gpu/defrag.h"

#include <string.h>

enum { RECORD_BYTES_MAX = 64 };

typedef bool before(const void *a, const void *b);

static void sift(char *base, size_t count, size_t bytes, size_t at, before *is_before)
{
    char moving[RECORD_BYTES_MAX];
    memcpy(moving, base + at * bytes, bytes);
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && is_before(base + child * bytes, base + (child + 1) * bytes)) child++;
        if (!is_before(moving, base + child * bytes)) break;
        memcpy(base + at * bytes, base + child * bytes, bytes);
    }
    memcpy(base + at * bytes, moving, bytes);
}

static void sort(void *records, size_t count, size_t bytes, before *is_before)
{
    char *base = records, last[RECORD_BYTES_MAX];
    for (size_t at = count / 2; at-- > 0;) sift(base, count, bytes, at, is_before);
    while (count > 1) {
        count--;
        memcpy(last, base + count * bytes, bytes);
        memcpy(base + count * bytes, base, bytes);
        memcpy(base, last, bytes);
        sift(base, count, bytes, 0, is_before);
    }
}
_Static_assert(sizeof(defrag_page) <= RECORD_BYTES_MAX && sizeof(defrag_block) <= RECORD_BYTES_MAX, "records fit");

/* --- pages ------------------------------------------------------------------------------------------------------ */

/* a's share of use is less than b's, without a division. */
static int compare_share(const defrag_page *a, const defrag_page *b)
{
    unsigned __int128 left = (unsigned __int128)a->used_bytes * b->bytes;
    unsigned __int128 right = (unsigned __int128)b->used_bytes * a->bytes;
    return left < right ? -1 : left > right;
}

/* By group, in it the emptiest first; of equal ones the larger, then by key, so that the order is always the same. */
static bool emptier(const void *left, const void *right)
{
    const defrag_page *a = left, *b = right;
    if (a->group != b->group) return a->group < b->group;
    int share = compare_share(a, b);
    if (share != 0) return share < 0;
    return a->bytes != b->bytes ? a->bytes > b->bytes : a->key < b->key;
}

static bool by_key(const void *left, const void *right)
{
    return ((const defrag_page *)left)->key < ((const defrag_page *)right)->key;
}

/* Pages [0, count) of one group, emptiest first. */
static uint32_t choose_in_group(defrag_page *pages, uint32_t count, const defrag_limits *limits, uint64_t *moved)
{
    uint64_t holes = 0, moving = 0;
    for (uint32_t i = 0; i < count; i++)
        if (pages[i].used_bytes != 0) holes += pages[i].bytes - pages[i].used_bytes;
    uint32_t sources = 0;
    for (uint32_t i = 0; i < count; i++) {
        defrag_page *p = &pages[i];
        if (p->fixed || p->used_bytes == 0) continue;
        if (p->used_bytes > p->bytes / 100 * limits->fill_percent_max) break;
        uint64_t left = holes - (p->bytes - p->used_bytes);
        if (moving + p->used_bytes > left - left / 16 || p->used_bytes > limits->bytes_max - *moved) break;
        holes = left;
        moving += p->used_bytes;
        *moved += p->used_bytes;
        p->source = true;
        sources++;
    }
    return sources;
}

uint32_t defrag_choose(defrag_page *pages, uint32_t page_count, const defrag_limits *limits)
{
    sort(pages, page_count, sizeof *pages, emptier);
    uint32_t sources = 0;
    uint64_t moved = 0;
    for (uint32_t first = 0, end; first < page_count; first = end) {
        for (end = first; end < page_count && pages[end].group == pages[first].group; end++) pages[end].source = false;
        sources += choose_in_group(pages + first, end - first, limits, &moved);
    }
    sort(pages, page_count, sizeof *pages, by_key);
    return sources;
}

defrag_page *defrag_find(defrag_page *pages, uint32_t page_count, uint64_t key)
{
    uint32_t low = 0, high = page_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (pages[middle].key < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low < page_count && pages[low].key == key ? &pages[low] : NULL;
}

/* --- blocks ----------------------------------------------------------------------------------------------------- */

/* The page that is emptied first has the fewest bytes to move; then the largest block. */
static bool sooner(const void *left, const void *right)
{
    const defrag_block *a = left, *b = right;
    if (a->rank != b->rank) return a->rank < b->rank;
    if (a->page != b->page) return a->page < b->page;
    return a->bytes != b->bytes ? a->bytes > b->bytes : a->key < b->key;
}

uint32_t defrag_order(defrag_block *blocks, uint32_t block_count, defrag_page *pages, uint32_t page_count)
{
    uint32_t moving = 0;
    for (uint32_t i = 0; i < block_count; i++) {
        const defrag_page *p = defrag_find(pages, page_count, blocks[i].page);
        if (p == NULL || !p->source) continue;
        defrag_block b = blocks[i];
        /* In 1/1024 of the page; ties are broken by the page. */
        b.rank = (uint32_t)((unsigned __int128)p->used_bytes * 1024 / p->bytes);
        blocks[i] = blocks[moving];
        blocks[moving++] = b;
    }
    sort(blocks, moving, sizeof *blocks, sooner);
    return moving;
}

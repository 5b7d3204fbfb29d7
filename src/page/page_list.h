/* page_list: doubly linked lists of pages, threaded through their records, never through the pages.
 *
 * A page is in one list at most, and next and prev of its record belong to whoever holds that list's lock: the page
 * pool keeps its free pages in two, each size class those that have free blocks. Page 0 of the space is never handed
 * out and stands for "none". Everything is O(1); walking is up to the caller: from head by next, from tail by prev. */
#ifndef ACRE_PAGE_PAGE_LIST_H
#define ACRE_PAGE_PAGE_LIST_H

#include "page/space.h"

/* All zero is an empty list. head == 0 <=> tail == 0 <=> count == 0. */
typedef struct page_list {
    _Atomic uint32_t head; /* written under the list's lock; anybody may look whether there is one */
    uint32_t tail;
    uint32_t count;
} page_list;

static inline uint32_t page_list_head(const page_list *l)
{
    return atomic_load_explicit(&l->head, memory_order_relaxed);
}
static inline void page_list_set_head(page_list *l, uint32_t page)
{
    atomic_store_explicit(&l->head, page, memory_order_relaxed);
}

static inline void page_list_push_head(page_list *l, uint32_t page)
{
    page_record *records = the_space.pages, *r = &records[page];
    uint32_t head = page_list_head(l);
    r->prev = 0;
    r->next = head;
    if (head) records[head].prev = page;
    else l->tail = page;
    page_list_set_head(l, page);
    l->count++;
}

static inline void page_list_push_tail(page_list *l, uint32_t page)
{
    page_record *records = the_space.pages, *r = &records[page];
    r->next = 0;
    r->prev = l->tail;
    if (l->tail) records[l->tail].next = page;
    else page_list_set_head(l, page);
    l->tail = page;
    l->count++;
}

/* The page is in the list. Its own links stay as they were. */
static inline void page_list_remove(page_list *l, uint32_t page)
{
    page_record *records = the_space.pages, *r = &records[page];
    if (r->prev) records[r->prev].next = r->next;
    else page_list_set_head(l, r->next);
    if (r->next) records[r->next].prev = r->prev;
    else l->tail = r->prev;
    l->count--;
}

/* Do the links agree, and is each page in this state? */
static inline bool page_list_check(const page_list *l, page_state state)
{
    uint32_t n = 0, prev = 0;
    bool ok = true;
    for (uint32_t page = page_list_head(l); page && n <= l->count; page = the_space.pages[page].next, n++) {
        const page_record *r = &the_space.pages[page];
        ok = ok && r->prev == prev && atomic_load_explicit(&r->state, memory_order_relaxed) == state;
        prev = page;
    }
    return ok && n == l->count && l->tail == prev;
}

#endif

/* retire: see retire.h. Entries carry the serial of their push; a poll notes the serial before it asks and collects
 * nothing younger. So an answer never retires a block that was pushed after the question, even if the timeline's
 * number was recycled meanwhile (an event that serves again). */
#include "gpu/retire.h"

#include "page/arena.h"

enum {
    CHUNK_BYTES = 4096,
    ASK_AT_ONCE = 32,      /* timelines between two takings of the lock */
    SLICE_NS = 200 * 1000, /* a wait for one of several timelines, before the others are looked at */
};

struct retire_entry {
    retire_entry *next, *prev; /* ascending by value, equal ones in the order of their push */
    uint64_t value, serial;
    void *block;
};

/* entries: oldest != NULL; it leaves the list with its last entry. */
struct retire_timeline {
    retire_timeline *next, *prev;
    uint64_t timeline;
    retire_entry *oldest, *newest;
    uint64_t asked; /* the last poll that asked about it */
};

/* Entries or timelines are cut from chunks, which stay until the queue goes. */
struct retire_chunk {
    retire_chunk *next;
    char room[CHUNK_BYTES - sizeof(retire_chunk *)];
};
_Static_assert(sizeof(retire_chunk) == CHUNK_BYTES, "one piece of the arena");

/* --- entries and timelines -------------------------------------------------------------------------------------- */

static retire_chunk *new_chunk(retire_queue *queue)
{
    retire_chunk *chunk = arena_alloc(sizeof *chunk);
    if (chunk == NULL) return NULL;
    chunk->next = queue->chunks;
    queue->chunks = chunk;
    return chunk;
}

static bool spare_some_entries(retire_queue *queue, uint32_t count)
{
    while (queue->spare_entry_count < count) {
        retire_chunk *chunk = new_chunk(queue);
        if (chunk == NULL) return false;
        retire_entry *entries = (retire_entry *)(void *)chunk->room;
        for (uint32_t i = 0; i < sizeof chunk->room / sizeof *entries; i++) {
            entries[i].next = queue->spare_entries;
            queue->spare_entries = &entries[i];
            queue->spare_entry_count++;
        }
    }
    return true;
}

static bool spare_some_timelines(retire_queue *queue, uint32_t count)
{
    while (queue->spare_timeline_count < count) {
        retire_chunk *chunk = new_chunk(queue);
        if (chunk == NULL) return false;
        retire_timeline *timelines = (retire_timeline *)(void *)chunk->room;
        for (uint32_t i = 0; i < sizeof chunk->room / sizeof *timelines; i++) {
            timelines[i].next = queue->spare_timelines;
            queue->spare_timelines = &timelines[i];
            queue->spare_timeline_count++;
        }
    }
    return true;
}

static void unlink_timeline(retire_queue *queue, retire_timeline *t)
{
    if (t->prev != NULL) t->prev->next = t->next;
    else queue->timelines = t->next;
    if (t->next != NULL) t->next->prev = t->prev;
}

static void link_first(retire_queue *queue, retire_timeline *t)
{
    t->prev = NULL;
    t->next = queue->timelines;
    if (t->next != NULL) t->next->prev = t;
    queue->timelines = t;
}

static retire_timeline *find_timeline(const retire_queue *queue, uint64_t timeline)
{
    retire_timeline *t = queue->timelines;
    while (t != NULL && t->timeline != timeline) t = t->next;
    return t;
}

/* The one that is pushed to comes first: the next push is likely for the same. NULL: no memory. */
static retire_timeline *timeline_for(retire_queue *queue, uint64_t timeline)
{
    retire_timeline *t = find_timeline(queue, timeline);
    if (t != NULL) {
        unlink_timeline(queue, t);
    } else {
        if (!spare_some_timelines(queue, 1)) return NULL;
        t = queue->spare_timelines;
        queue->spare_timelines = t->next;
        queue->spare_timeline_count--;
        *t = (retire_timeline){.timeline = timeline};
    }
    link_first(queue, t);
    return t;
}

static void insert_entry(retire_timeline *t, retire_entry *entry)
{
    retire_entry *before = t->newest;
    while (before != NULL && before->value > entry->value) before = before->prev;
    entry->prev = before;
    entry->next = before != NULL ? before->next : t->oldest;
    if (entry->next != NULL) entry->next->prev = entry;
    else t->newest = entry;
    if (before != NULL) before->next = entry;
    else t->oldest = entry;
}

static void remove_entry(retire_timeline *t, retire_entry *entry)
{
    if (entry->prev != NULL) entry->prev->next = entry->next;
    else t->oldest = entry->next;
    if (entry->next != NULL) entry->next->prev = entry->prev;
    else t->newest = entry->prev;
}

/* --- life ------------------------------------------------------------------------------------------------------- */

void retire_init(retire_queue *queue, const retire_owner *owner) { *queue = (retire_queue){.owner = *owner}; }

void retire_destroy(retire_queue *queue)
{
    for (retire_chunk *chunk = queue->chunks, *next; chunk != NULL; chunk = next) {
        next = chunk->next;
        arena_free(chunk, sizeof *chunk);
    }
    *queue = (retire_queue){.owner = queue->owner};
}

bool retire_reserve(retire_queue *queue, uint32_t count)
{
    lock_acquire(&queue->lock);
    bool done = spare_some_entries(queue, count) && spare_some_timelines(queue, count);
    lock_release(&queue->lock);
    return done;
}

bool retire_push(retire_queue *queue, uint64_t timeline, uint64_t value, void *block)
{
    lock_acquire(&queue->lock);
    retire_timeline *t = spare_some_entries(queue, 1) ? timeline_for(queue, timeline) : NULL;
    if (t != NULL) {
        retire_entry *entry = queue->spare_entries;
        queue->spare_entries = entry->next;
        queue->spare_entry_count--;
        *entry = (retire_entry){.value = value, .serial = ++queue->pushes, .block = block};
        insert_entry(t, entry);
        queue->entry_count++;
    }
    lock_release(&queue->lock);
    return t != NULL;
}

uint64_t retire_count(retire_queue *queue)
{
    lock_acquire(&queue->lock);
    uint64_t count = queue->entry_count;
    lock_release(&queue->lock);
    return count;
}

/* --- poll ------------------------------------------------------------------------------------------------------- */

typedef struct question {
    uint64_t timeline;
    uint64_t pushes; /* as of the question: younger entries are not meant */
    uint64_t first;  /* value of its oldest entry */
} question;

/* Under the lock. Timelines that this poll has not asked about; returns how many. */
static uint32_t collect_questions(retire_queue *queue, uint64_t poll, question *questions)
{
    uint32_t count = 0;
    for (retire_timeline *t = queue->timelines; t != NULL && count < ASK_AT_ONCE; t = t->next) {
        if (t->asked == poll) continue;
        t->asked = poll;
        questions[count++] = (question){t->timeline, queue->pushes, t->oldest->value};
    }
    return count;
}

/* Under the lock. The entries that are answered, as a list in their order; *done: the timeline has none left. */
static retire_entry *collect_reached(retire_queue *queue, const question *q, uint64_t reached, bool *done)
{
    retire_timeline *t = find_timeline(queue, q->timeline);
    retire_entry *first = NULL, *last = NULL;
    *done = false;
    if (t == NULL) return NULL;
    for (retire_entry *entry = t->oldest, *next; entry != NULL && entry->value <= reached; entry = next) {
        next = entry->next;
        if (entry->serial > q->pushes) continue;
        remove_entry(t, entry);
        queue->entry_count--;
        entry->next = NULL;
        if (last != NULL) last->next = entry;
        else first = entry;
        last = entry;
    }
    if (t->oldest == NULL) {
        unlink_timeline(queue, t);
        t->next = queue->spare_timelines;
        queue->spare_timelines = t;
        queue->spare_timeline_count++;
        *done = true;
    }
    return first;
}

/* Without the lock, but to give the entries back. Returns how many. */
static uint64_t free_blocks(retire_queue *queue, uint64_t timeline, retire_entry *first, bool done)
{
    uint64_t count = 0;
    retire_entry *last = NULL;
    for (retire_entry *entry = first; entry != NULL; entry = entry->next, count++) {
        queue->owner.free_block(queue->owner.context, entry->block);
        last = entry;
    }
    if (last == NULL) return 0;
    if (done && queue->owner.timeline_done != NULL)
        queue->owner.timeline_done(queue->owner.context, timeline, last->value);
    lock_acquire(&queue->lock);
    last->next = queue->spare_entries;
    queue->spare_entries = first;
    queue->spare_entry_count += count;
    lock_release(&queue->lock);
    return count;
}

/* *answered: some question got an answer. */
static uint64_t poll(retire_queue *queue, bool *answered)
{
    question questions[ASK_AT_ONCE];
    uint64_t freed = 0;
    *answered = false;
    lock_acquire(&queue->lock);
    uint64_t number = ++queue->polls;
    for (uint32_t count; (count = collect_questions(queue, number, questions)) != 0;) {
        lock_release(&queue->lock);
        for (uint32_t i = 0; i < count; i++) {
            uint64_t reached = 0;
            if (!queue->owner.reached(queue->owner.context, questions[i].timeline, &reached)) continue;
            *answered = true;
            if (reached < questions[i].first) continue;
            bool done;
            lock_acquire(&queue->lock);
            retire_entry *first = collect_reached(queue, &questions[i], reached, &done);
            lock_release(&queue->lock);
            freed += free_blocks(queue, questions[i].timeline, first, done);
        }
        lock_acquire(&queue->lock);
    }
    lock_release(&queue->lock);
    return freed;
}

uint64_t retire_poll(retire_queue *queue)
{
    bool answered;
    return poll(queue, &answered);
}

/* --- wait ------------------------------------------------------------------------------------------------------- */

typedef struct deadline {
    uint64_t start_ns, timeout_ns;
} deadline;

static deadline deadline_in(uint64_t timeout_ns)
{
    return (deadline){timeout_ns != 0 && timeout_ns != UINT64_MAX ? os_now_ns() : 0, timeout_ns};
}

static uint64_t left_ns(const deadline *d)
{
    if (d->timeout_ns == 0 || d->timeout_ns == UINT64_MAX) return d->timeout_ns;
    uint64_t gone = os_now_ns() - d->start_ns;
    return gone < d->timeout_ns ? d->timeout_ns - gone : 0;
}

/* One sleep, for the first entry of the timeline whose turn it is: all of the time if it is the only one, else a
 * slice. False: it was an error. */
static bool sleep_for_one(retire_queue *queue, uint64_t turn, uint64_t limit_ns)
{
    if (queue->owner.wait == NULL) {
        os_yield();
        return true;
    }
    lock_acquire(&queue->lock);
    uint64_t count = 0;
    for (retire_timeline *t = queue->timelines; t != NULL; t = t->next) count++;
    retire_timeline *t = queue->timelines;
    for (uint64_t i = count != 0 ? turn % count : 0; i != 0; i--) t = t->next;
    uint64_t timeline = t != NULL ? t->timeline : 0, value = t != NULL ? t->oldest->value : 0;
    lock_release(&queue->lock);
    if (count == 0) return true;
    if (count > 1 && limit_ns > SLICE_NS) limit_ns = SLICE_NS;
    return queue->owner.wait(queue->owner.context, timeline, value, limit_ns);
}

static bool wait_until(retire_queue *queue, const deadline *d)
{
    bool slept = true;
    for (uint64_t turn = 0;; turn++) {
        bool answered;
        if (poll(queue, &answered) != 0) return true;
        if (retire_count(queue) == 0) return false;
        if (!answered && !slept) return false; /* a driver that neither answers nor waits: do not hang here */
        uint64_t left = left_ns(d);
        if (left == 0) return false;
        slept = sleep_for_one(queue, turn, left);
    }
}

bool retire_wait(retire_queue *queue, uint64_t timeout_ns)
{
    deadline d = deadline_in(timeout_ns);
    return wait_until(queue, &d);
}

bool retire_drain(retire_queue *queue, uint64_t timeout_ns)
{
    deadline d = deadline_in(timeout_ns);
    while (retire_count(queue) != 0)
        if (!wait_until(queue, &d) && retire_count(queue) != 0) return false;
    return true;
}

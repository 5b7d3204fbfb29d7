/* sleep: a category's memory goes back to the driver while its tensors keep their addresses, as between two requests to
 * a model that is rarely asked, or while the weights of one model make room for the training of another.
 *
 * What is to be kept lies in host memory meanwhile: one mapping per block, found by the block's address when it wakes.
 * A block that cannot be copied stays awake. When the call fails, what fell asleep is woken again, contents and all. */
#include <stdlib.h>
#include <sys/mman.h>

#include "plugin.h"

typedef struct kept {
    struct kept *next;
    void *block, *host;
    uint64_t bytes;
} kept;

typedef struct store {
    int device;
    bool asleep, keep;
    kept *blocks;
} store;

static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below; a sleep or a wake at a time */
static store stores[DEVICES_MAX][ACRE_GPU_CATEGORIES_MAX];

static void forget(store *s)
{
    while (s->blocks) {
        kept *k = s->blocks;
        s->blocks = k->next;
        munmap(k->host, (size_t)k->bytes);
        free(k);
    }
}

static bool save(void *context, void *block, uint64_t bytes, void *stream)
{
    (void)stream; /* the heap has waited for the GPU */
    store *s = context;
    kept *k = calloc(1, sizeof *k);
    if (!k) return false;
    k->host = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (k->host == MAP_FAILED) {
        free(k);
        return false;
    }
    k->block = block;
    k->bytes = bytes;
    k->next = s->blocks;
    s->blocks = k;
    return driver_copy_to_host(s->device, k->host, block, bytes);
}

static bool restore(void *context, void *block, uint64_t bytes, void *stream)
{
    (void)stream;
    store *s = context;
    kept *k = s->blocks;
    while (k && k->block != block) k = k->next;
    return k && k->bytes == bytes && driver_copy_from_host(s->device, block, k->host, bytes);
}

static bool can_sleep(int category)
{
    const plugin_options *o = options_get();
    return category >= 0 && (uint32_t)category < o->category_count && (o->sleepers >> category & 1);
}

static acre_status wake(acre_cuda *heap, int category, store *s)
{
    acre_status status = acre_cuda_wake(heap, (uint32_t)category, s->keep ? restore : NULL, s);
    if (status != ACRE_OK) return status;
    s->asleep = false;
    forget(s);
    return ACRE_OK;
}

/* Of all devices; what already slept when one of them failed is woken again. */
int acre_torch_sleep(int category, bool keep)
{
    if (!can_sleep(category)) return ACRE_INVALID_ARGUMENT;
    acre_status status = ACRE_OK;
    pthread_mutex_lock(&sleep_lock);
    int device = 0;
    for (; device < DEVICES_MAX && status == ACRE_OK; device++) {
        acre_cuda *heap = device_heap_if_any(device);
        store *s = &stores[device][category];
        if (!heap) continue;
        if (s->asleep) {
            status = ACRE_BUSY;
            continue;
        }
        *s = (store){.device = device, .keep = keep};
        status = acre_cuda_sleep(heap, (uint32_t)category, keep ? save : NULL, s);
        /* After other failures it sleeps, though some of its memory could not be given back. */
        s->asleep = status != ACRE_BUSY && status != ACRE_INVALID_ARGUMENT;
        if (!s->asleep) forget(s);
    }
    if (status != ACRE_OK) {
        bool slept_before = status == ACRE_BUSY; /* the device that said so stays as it was */
        for (device -= slept_before ? 2 : 1; device >= 0; device--) {
            acre_cuda *heap = device_heap_if_any(device);
            if (heap && stores[device][category].asleep) wake(heap, category, &stores[device][category]);
        }
    }
    pthread_mutex_unlock(&sleep_lock);
    return (int)status;
}

/* A device that cannot wake sleeps on; the others are awake. Call again when there is room. */
int acre_torch_wake(int category)
{
    if (!can_sleep(category)) return ACRE_INVALID_ARGUMENT;
    acre_status status = ACRE_OK;
    pthread_mutex_lock(&sleep_lock);
    for (int device = 0; device < DEVICES_MAX; device++) {
        acre_cuda *heap = device_heap_if_any(device);
        store *s = &stores[device][category];
        if (!heap || !s->asleep) continue;
        acre_status one = wake(heap, category, s);
        if (one != ACRE_OK) status = one;
    }
    pthread_mutex_unlock(&sleep_lock);
    return (int)status;
}

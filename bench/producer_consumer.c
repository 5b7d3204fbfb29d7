/* producer_consumer: one thread makes messages, another takes them and lets them go. Pipelines of decoders, loggers,
 * network threads that hand requests to workers: every block is freed by a thread that did not allocate it, always in
 * the same direction.
 *
 *   producer_consumer [scale] [pairs=1] [queue=4096]
 *
 * Each pair has a bounded queue; the producer publishes in runs of 32, as a batching queue does. A message is a header
 * of 48 B that points to a body, log-uniform from 32 B to 4 KiB, written by the producer and read line by line by the
 * consumer. A side that cannot go on yields its core.
 * What it shows: whether frees from afar flow back cheaply, and whether memory piles up at the consumer. One operation
 * is one message: two mallocs here and two frees there. */
#include "bench.h"

#include <sched.h>
#include <stdatomic.h>

enum { RUN = 32, PAIRS_MAX = 64 };

typedef struct message {
    char *body;
    uint32_t size;
    uint32_t checksum;
    uint64_t fields[4];
} message;

/* A ring of messages: written - taken <= slots, both counted from the start. */
typedef struct queue {
    _Alignas(128) _Atomic(size_t) written; /* the producer's */
    _Alignas(128) _Atomic(size_t) taken;   /* the consumer's */
    _Alignas(128) message **slot;
    size_t slots, messages;
    uint64_t seed, sum;
} queue;

static bench_sizes sizes;
static queue queues[PAIRS_MAX];

static void *produce(void *argument)
{
    queue *q = argument;
    bench_random random = bench_seed(q->seed);
    for (size_t i = 0; i < q->messages; i++) {
        message *m = bench_malloc(sizeof *m);
        m->size = (uint32_t)bench_size(&sizes, &random);
        m->body = bench_malloc(m->size);
        bench_fill(m->body, m->size, (int)i);
        m->checksum = bench_read(m->body, m->size);
        m->fields[0] = i;
        while (i - atomic_load_explicit(&q->taken, memory_order_acquire) >= q->slots) sched_yield();
        q->slot[i % q->slots] = m;
        if (i % RUN == RUN - 1 || i + 1 == q->messages)
            atomic_store_explicit(&q->written, i + 1, memory_order_release);
    }
    return NULL;
}

static void *consume(void *argument)
{
    queue *q = argument;
    size_t written = 0;
    for (size_t i = 0; i < q->messages; i++) {
        while (written == i) {
            written = atomic_load_explicit(&q->written, memory_order_acquire);
            if (written == i) sched_yield();
        }
        message *m = q->slot[i % q->slots];
        if (m->checksum != bench_read(m->body, m->size) || m->fields[0] != i) bench_fail("a message is damaged");
        for (uint32_t at = 0; at < m->size; at += BENCH_LINE) q->sum += (unsigned char)m->body[at];
        free(m->body);
        free(m);
        if (i % RUN == RUN - 1) atomic_store_explicit(&q->taken, i + 1, memory_order_release);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    double scale = bench_scale(argc, argv);
    size_t pairs = bench_count(argc, argv, 2, 1), slots = bench_count(argc, argv, 3, 4096);
    size_t messages = bench_scaled(scale, 6000000);
    if (pairs < 1 || pairs > PAIRS_MAX || slots < 2 * RUN) bench_fail("1 to 64 pairs, a queue of 64 or more");

    bench_sizes_log_uniform(&sizes, 1, 32, 4 * BENCH_KIB);
    pthread_t ids[2 * PAIRS_MAX];
    uint64_t begin = bench_now_ns();
    for (size_t i = 0; i < pairs; i++) {
        queues[i] = (queue){.slots = slots, .messages = messages, .seed = 2 + i};
        queues[i].slot = bench_map(slots * sizeof(message *));
        ids[2 * i] = bench_start(produce, &queues[i]);
        ids[2 * i + 1] = bench_start(consume, &queues[i]);
    }
    for (size_t i = 0; i < 2 * pairs; i++) pthread_join(ids[i], NULL);
    bench_print(messages * pairs, bench_now_ns() - begin);
    bench_end();
    return 0;
}

/*
 * A plug-in as they come: allocates in its constructor, keeps memory in thread-local variables, starts a thread that
 * dies,
 * frees in its destructor what other objects gave it. dlopen.c loads and unloads it many times.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 300 };

static char *blocks[BLOCKS];
static char *given;
static __thread char *mine;
static __thread char space[5000];

__attribute__((constructor)) static void load(void)
{
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(i * 37 + 1);
        if (!blocks[i])
            abort();
        memset(blocks[i], (int)i, i * 37 + 1);
    }
}

__attribute__((destructor)) static void unload(void)
{
    for (size_t i = 0; i < BLOCKS; i++) {
        if (blocks[i][0] != (char)i || blocks[i][i * 37] != (char)i)
            abort();
        free(blocks[i]);
    }
    free(given);
}

static void *thread(void *argument)
{
    mine = calloc(1, 9000);
    memset(space, 1, sizeof space);
    if (!mine || mine[8999] != 0)
        abort();
    free(argument);
    free(mine);
    return strdup("from the plug-in's thread");
}

void plugin_give(char *block)
{
    free(given);
    given = block;
}

char *plugin_work(size_t n)
{
    pthread_t id;
    void *result = NULL;

    if (pthread_create(&id, NULL, thread, malloc(n)) != 0)
        abort();
    pthread_join(id, &result);
    return result; /* the caller frees */
}

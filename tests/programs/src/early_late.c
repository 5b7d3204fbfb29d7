/*
 * Allocates and frees at every moment of a process's life that C code can get hold of: preinit_array, constructors of
 * all
 * priorities, main, a thread's key destructors, atexit and on_exit handlers, destructors, and a stdio buffer that exit
 * flushes.
 * A block made at one moment is checked and freed at another. Each moment writes a line, by write(2).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *from_preinit, *from_first, *from_constructor, *from_main, *from_thread, *from_exit;
static pthread_key_t key, late_key;
static int key_rounds;

static void line(const char *text)
{
    if (write(1, text, strlen(text)) < 0 || write(1, "\n", 1) < 0)
        _exit(9);
}

static char *make(const char *text)
{
    size_t n = strlen(text) + 1;
    char *p = malloc(n), *q = calloc(3, 1000), *r = aligned_alloc(256, 1024);

    if (!p || !q || !r || q[2999] || ((size_t)r & 255)) {
        line("an allocation went wrong");
        _exit(1);
    }
    memcpy(p, text, n);
    q = realloc(q, 100000);
    if (!q || q[0] || q[2999]) {
        line("realloc lost zeros");
        _exit(1);
    }
    free(q);
    free(r);
    free(NULL);
    return p;
}

static void take(const char *when, char **p, const char *text)
{
    line(when);
    if (!*p || strcmp(*p, text) != 0) {
        line("the block does not hold what was put there");
        _exit(1);
    }
    free(*p);
    *p = NULL;
}

static void preinit(void)
{
    line("preinit");
    from_preinit = make("preinit");
}
__attribute__((section(".preinit_array"), used)) static void (*const preinit_entry)(void) = preinit;

__attribute__((constructor(101))) static void first(void)
{
    take("first constructor", &from_preinit, "preinit");
    from_first = make("first");
}

__attribute__((constructor)) static void constructor(void)
{
    take("constructor", &from_first, "first");
    from_constructor = make("constructor");
}

static void key_gone(void *value)
{
    free(value);
    if (++key_rounds < 3) /* set again: the system calls once more, after other keys' destructors */
        pthread_setspecific(key, make("again"));
}

static void late_key_gone(void *value)
{
    free(value);
    from_thread = make("thread's end");
}

static void *thread(void *argument)
{
    (void)argument;
    pthread_setspecific(key, make("key"));
    pthread_setspecific(late_key, make("late key"));
    take("thread", &from_main, "main");
    return NULL;
}

static void at_exit_1(void)
{
    line("atexit, registered first");
    from_exit = make("exit");
}

static void at_exit_2(void)
{
    take("atexit, registered last", &from_thread, "thread's end");
    free(make("thrown away"));
}

static void on_exit_3(int status, void *block)
{
    char *p = block;
    take(status == 7 ? "on_exit" : "on_exit: wrong status", &p, "on_exit");
}

__attribute__((destructor)) static void destructor(void)
{
    take("destructor", &from_exit, "exit");
    from_exit = make("destructor");
}

__attribute__((destructor(101))) static void last(void)
{
    take("last destructor", &from_exit, "destructor");
    make("never freed");
    line("end");
}

int main(void)
{
    pthread_t id;

    take("main", &from_constructor, "constructor");
    from_main = make("main");
    atexit(at_exit_1);
    atexit(at_exit_2);
    on_exit(on_exit_3, make("on_exit"));
    pthread_key_create(&key, key_gone);
    pthread_key_create(&late_key, late_key_gone);
    if (pthread_create(&id, NULL, thread, NULL) != 0)
        return 1;
    pthread_join(id, NULL);
    line(key_rounds == 3 ? "key destructors ran three times" : "key destructors did not run three times");
    printf("flushed by exit\n"); /* stays in a buffer that malloc gave */
    exit(7);
}

/* start: what must happen round main: fork handlers before it, the report after it.
 *
 * Nothing here is needed for malloc to work: calls before this constructor and after this destructor are served like
 * any other. A fork before the constructor is a fork of a process with one thread, which needs no handler. */
#include <pthread.h>

#include "api/start.h"
#include "debug/report.h"
#include "heap/background.h"
#include "heap/heap.h"

const char start_anchor = 0;

__attribute__((constructor(101))) static void start(void)
{
    (void)pthread_atfork(heap_fork_prepare, heap_fork_parent, heap_fork_child);
    report_prepare();
    if (heap_process()) background_start();
}

/* After the program's exit handlers and destructors; other libraries' may still come. */
__attribute__((destructor(101))) static void finish(void) { report_at_end(); }

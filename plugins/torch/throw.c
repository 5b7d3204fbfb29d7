/* throw: an exception out of C. PyTorch does not look at what the allocator returns, so out of memory has to be thrown.
 * The C++ runtime is found, not linked: a process with PyTorch in it has one. Linking it would bring one into every
 * process that only wants the statistics. Compiled with unwind tables, as everything on x86-64 is. */
#include <dlfcn.h>

#include "plugin.h"

typedef void throw_function(const char *text);

void throw_runtime_error(const char *text)
{
    void *runtime = dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_NOLOAD); /* stays loaded; this only counts */
    if (!runtime) return;
    throw_function *throws = NULL;
    *(void **)&throws = dlsym(runtime, "_ZSt21__throw_runtime_errorPKc"); /* std::__throw_runtime_error(char const *) */
    dlclose(runtime);
    if (throws) throws(text);
}

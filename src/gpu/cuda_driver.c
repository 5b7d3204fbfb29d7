/* cuda_driver: see cuda_driver.h. The library is looked for under the name that the program gives, the environment
 * gives, or the driver's own; what could not be found is said in a sentence, since "not supported" alone helps nobody
 * who sits before a machine that has a GPU. */
#include "gpu/cuda_driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os/os.h"

enum { NEEDED, OPTIONAL };

typedef struct entry {
    const char *symbol;
    size_t offset;
    int need;
} entry;

static const entry entries[] = {
#define X(field, name, need, parameters) {#name, offsetof(cuda_driver, field), need},
    CUDA_DRIVER_CALLS(X)
#undef X
};

static void *library_symbol(void *library, const char *name) { return dlsym(library, name); }

static void *load(const char *wanted, acre_cuda_error *why)
{
    const char *name = wanted;
    if (name == NULL && !os_is_privileged()) name = getenv("ACRE_CUDA_DRIVER");
    if (name == NULL || *name == 0) name = "libcuda.so.1";
    /* It stays loaded: events and contexts of other users live in it, and there is one driver per process. */
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *reason = dlerror();
        snprintf(why->text, sizeof why->text, "no CUDA driver: %s", reason != NULL ? reason : name);
    }
    return library;
}

acre_status cuda_driver_load(cuda_driver *driver, const acre_cuda_options *options, acre_cuda_error *why)
{
    acre_cuda_symbol *symbol = options->symbol;
    void *context = options->symbol_context;
    if (symbol == NULL) {
        symbol = library_symbol;
        context = load(options->library, why);
        if (context == NULL) return why->status = ACRE_NOT_SUPPORTED;
    }
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++) {
        void *function = symbol(context, entries[i].symbol);
        if (function == NULL && entries[i].need == NEEDED) {
            snprintf(why->text, sizeof why->text, "the CUDA driver has no %s: it is older than CUDA 10.2, or none",
                     entries[i].symbol);
            why->driver_call = entries[i].symbol;
            return why->status = ACRE_NOT_SUPPORTED;
        }
        memcpy((char *)driver + entries[i].offset, &function, sizeof function);
    }
    return ACRE_OK;
}

const char *cuda_driver_error_name(const cuda_driver *driver, CUresult result)
{
    const char *name = NULL;
    if (driver->error_name == NULL || driver->error_name(result, &name) != CUDA_SUCCESS || name == NULL)
        name = result == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "an error without a name";
    return name;
}

acre_status cuda_driver_status(CUresult result)
{
    switch (result) {
    case CUDA_SUCCESS: return ACRE_OK;
    case CUDA_ERROR_OUT_OF_MEMORY: return ACRE_NO_MEMORY;
    case CUDA_ERROR_NOT_SUPPORTED: return ACRE_NOT_SUPPORTED;
    default: return ACRE_SYSTEM;
    }
}

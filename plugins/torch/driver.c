/* driver: the few driver calls that the plug-in makes itself. They come from the library that the heaps use, too: the
 * one that ACRE_CUDA_DRIVER names, or libcuda.so.1. */
#include <dlfcn.h>
#include <stdlib.h>

#include "os/os.h"
#include "plugin.h"

enum { CAPTURE_NONE = 0 }; /* CU_STREAM_CAPTURE_STATUS_NONE */

typedef unsigned long long device_pointer;

static struct {
    int (*is_capturing)(void *stream, int *status);
    int (*to_host)(void *host, device_pointer from, size_t bytes);
    int (*from_host)(device_pointer to, const void *host, size_t bytes);
    int (*context_retain)(void **context, int device);
    int (*context_release)(int device);
    int (*context_push)(void *context);
    int (*context_pop)(void **context);
    int (*device_get)(int *device, int ordinal);
} driver;
static pthread_once_t driver_once = PTHREAD_ONCE_INIT;

static void load(void)
{
    const char *name = os_is_privileged() ? NULL : getenv("ACRE_CUDA_DRIVER");
    void *library = dlopen(name && *name ? name : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    *(void **)&driver.is_capturing = dlsym(library, "cuStreamIsCapturing");
    *(void **)&driver.to_host = dlsym(library, "cuMemcpyDtoH_v2");
    *(void **)&driver.from_host = dlsym(library, "cuMemcpyHtoD_v2");
    *(void **)&driver.context_retain = dlsym(library, "cuDevicePrimaryCtxRetain");
    *(void **)&driver.context_release = dlsym(library, "cuDevicePrimaryCtxRelease_v2");
    *(void **)&driver.context_push = dlsym(library, "cuCtxPushCurrent_v2");
    *(void **)&driver.context_pop = dlsym(library, "cuCtxPopCurrent_v2");
    *(void **)&driver.device_get = dlsym(library, "cuDeviceGet");
}

static void ready(void) { pthread_once(&driver_once, load); }

/* The device's primary context, pushed; what is retained here is released by leave. */
static bool enter(int ordinal, int *device)
{
    ready();
    void *context;
    if (!driver.device_get || !driver.context_retain || !driver.context_release || !driver.context_push ||
        !driver.context_pop || driver.device_get(device, ordinal) != 0 ||
        driver.context_retain(&context, *device) != 0)
        return false;
    if (driver.context_push(context) == 0) return true;
    driver.context_release(*device);
    return false;
}

static void leave(int device)
{
    void *context;
    driver.context_pop(&context);
    driver.context_release(device);
}

bool driver_is_capturing(int ordinal, void *stream)
{
    int device, status = CAPTURE_NONE;
    if (!enter(ordinal, &device)) return false;
    bool capturing = driver.is_capturing && driver.is_capturing(stream, &status) == 0 && status != CAPTURE_NONE;
    leave(device);
    return capturing;
}

bool driver_copy_to_host(int ordinal, void *host, const void *block, uint64_t bytes)
{
    int device;
    if (!enter(ordinal, &device)) return false;
    bool done = driver.to_host && driver.to_host(host, (device_pointer)(uintptr_t)block, (size_t)bytes) == 0;
    leave(device);
    return done;
}

bool driver_copy_from_host(int ordinal, void *block, const void *host, uint64_t bytes)
{
    int device;
    if (!enter(ordinal, &device)) return false;
    bool done = driver.from_host && driver.from_host((device_pointer)(uintptr_t)block, host, (size_t)bytes) == 0;
    leave(device);
    return done;
}

/* acre/status.h: what an acre call can answer.
 *
 * Every fallible function of the native API returns an acre_status; zero is success. The same conditions are errors in
 * debug and in release builds. Thread-safe, no state. */
#ifndef ACRE_STATUS_H
#define ACRE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define ACRE_API __attribute__((visibility("default")))
#else
#define ACRE_API
#endif

/* X(NAME, text): one list makes the enum, the names and the texts. */
#define ACRE_STATUS_LIST(X)                                                                \
    X(OK, "success")                                                                       \
    X(NO_MEMORY, "the system, the provider or the address space has no memory left")      \
    X(INVALID_ARGUMENT, "an argument is outside of what this call accepts")                \
    X(FOREIGN_POINTER, "the pointer or handle was not handed out by this allocator")       \
    X(DOUBLE_FREE, "the block is free already")                                            \
    X(OVER_BUDGET, "the request would exceed the budget of its heap or category")          \
    X(TOO_LARGE, "the size is above what this allocator can hold")                         \
    X(NOT_SUPPORTED, "the platform or the provider cannot do this")                        \
    X(WRONG_THREAD, "the heap belongs to another thread")                                  \
    X(BUSY, "the object is still in use")                                                  \
    X(SYSTEM, "a call of the system or of a driver failed; errno or the driver's result says why")

typedef enum acre_status {
#define X(name, text) ACRE_##name,
    ACRE_STATUS_LIST(X)
#undef X
    ACRE_STATUS_COUNT
} acre_status;

/* "ACRE_NO_MEMORY" and the like; "ACRE_?" for a value that is no status. */
ACRE_API const char *acre_status_name(acre_status status);
/* A sentence for a person. */
ACRE_API const char *acre_status_text(acre_status status);

#ifdef __cplusplus
}
#endif
#endif

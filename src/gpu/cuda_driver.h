/* cuda_driver: what acre needs of libcuda, declared here because no CUDA header is needed to build acre.
 *
 * Layer 8. Types have the layout that CUDA 12 documents for its driver interface on 64-bit Linux; functions go by the
 * names that the library exports, version suffix included, since a name without one may be an older interface. The
 * table is filled from a function that the program gives, or from a library that is loaded once and stays. A driver
 * that lacks a needed call is refused with the call's name; calls marked optional may be NULL. */
#ifndef ACRE_GPU_CUDA_DRIVER_H
#define ACRE_GPU_CUDA_DRIVER_H

#include "acre/cuda.h"
#include "base/bits.h"

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef unsigned long long CUmemGenericAllocationHandle;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_DEINITIALIZED = 4,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_NOT_SUPPORTED = 801,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT = 906,
    CUDA_ERROR_UNKNOWN = 999,
};

enum {
    CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED = 102,
    CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED = 103,
    CU_MEM_ALLOCATION_TYPE_PINNED = 1,
    CU_MEM_HANDLE_TYPE_NONE = 0,
    CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR = 1,
    CU_MEM_LOCATION_TYPE_DEVICE = 1,
    CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3,
    CU_MEM_ALLOC_GRANULARITY_MINIMUM = 0,
    CU_MEM_ALLOC_GRANULARITY_RECOMMENDED = 1,
    CU_EVENT_DISABLE_TIMING = 2,
    CU_STREAM_CAPTURE_STATUS_NONE = 0,
    CU_STREAM_CAPTURE_STATUS_ACTIVE = 1,
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0,
    CU_STREAM_CAPTURE_MODE_RELAXED = 2,
};
/* Names a stream per thread, not one stream. */
#define CU_STREAM_PER_THREAD ((CUstream)0x2)

typedef struct CUmemLocation {
    int type;
    int id;
} CUmemLocation;

typedef struct CUmemAllocationProp {
    int type;
    int requestedHandleTypes;
    CUmemLocation location;
    void *win32HandleMetaData;
    struct {
        unsigned char compressionType;
        unsigned char gpuDirectRDMACapable;
        unsigned short usage;
        unsigned char reserved[4];
    } allocFlags;
} CUmemAllocationProp;
_Static_assert(sizeof(CUmemAllocationProp) == 32, "as the driver expects it");

typedef struct CUmemAccessDesc {
    CUmemLocation location;
    int flags;
} CUmemAccessDesc;
_Static_assert(sizeof(CUmemAccessDesc) == 12, "as the driver expects it");

/* X(field, exported name, NEEDED or OPTIONAL, parameters) */
#define CUDA_DRIVER_CALLS(X)                                                                                       \
    X(init, cuInit, NEEDED, (unsigned flags))                                                                      \
    X(driver_version, cuDriverGetVersion, OPTIONAL, (int *version))                                                \
    X(error_name, cuGetErrorName, OPTIONAL, (CUresult result, const char **name))                                  \
    X(device_count, cuDeviceGetCount, NEEDED, (int *count))                                                        \
    X(device_get, cuDeviceGet, NEEDED, (CUdevice * device, int ordinal))                                           \
    X(device_attribute, cuDeviceGetAttribute, NEEDED, (int *value, int attribute, CUdevice device))                \
    X(device_total, cuDeviceTotalMem_v2, NEEDED, (size_t *bytes, CUdevice device))                                 \
    X(context_retain, cuDevicePrimaryCtxRetain, NEEDED, (CUcontext * context, CUdevice device))                    \
    X(context_release, cuDevicePrimaryCtxRelease_v2, NEEDED, (CUdevice device))                                    \
    X(context_push, cuCtxPushCurrent_v2, NEEDED, (CUcontext context))                                              \
    X(context_pop, cuCtxPopCurrent_v2, NEEDED, (CUcontext * context))                                              \
    X(memory_info, cuMemGetInfo_v2, OPTIONAL, (size_t *free_bytes, size_t *total_bytes))                           \
    X(granularity, cuMemGetAllocationGranularity, NEEDED,                                                          \
      (size_t *bytes, const CUmemAllocationProp *properties, int option))                                          \
    X(address_reserve, cuMemAddressReserve, NEEDED,                                                                \
      (CUdeviceptr * address, size_t bytes, size_t alignment, CUdeviceptr wanted, unsigned long long flags))       \
    X(address_free, cuMemAddressFree, NEEDED, (CUdeviceptr address, size_t bytes))                                 \
    X(create, cuMemCreate, NEEDED,                                                                                 \
      (CUmemGenericAllocationHandle * handle, size_t bytes, const CUmemAllocationProp *properties,                 \
       unsigned long long flags))                                                                                  \
    X(release, cuMemRelease, NEEDED, (CUmemGenericAllocationHandle handle))                                        \
    X(map, cuMemMap, NEEDED,                                                                                       \
      (CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,                      \
       unsigned long long flags))                                                                                  \
    X(unmap, cuMemUnmap, NEEDED, (CUdeviceptr address, size_t bytes))                                              \
    X(set_access, cuMemSetAccess, NEEDED,                                                                          \
      (CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t count))                            \
    X(export_handle, cuMemExportToShareableHandle, OPTIONAL,                                                       \
      (void *shareable, CUmemGenericAllocationHandle handle, int type, unsigned long long flags))                  \
    X(import_handle, cuMemImportFromShareableHandle, OPTIONAL,                                                     \
      (CUmemGenericAllocationHandle * handle, void *shareable, int type))                                          \
    X(event_create, cuEventCreate, NEEDED, (CUevent * event, unsigned flags))                                      \
    X(event_record, cuEventRecord, NEEDED, (CUevent event, CUstream stream))                                       \
    X(event_query, cuEventQuery, NEEDED, (CUevent event))                                                          \
    X(event_wait, cuEventSynchronize, NEEDED, (CUevent event))                                                     \
    X(event_destroy, cuEventDestroy_v2, NEEDED, (CUevent event))                                                   \
    X(stream_capturing, cuStreamIsCapturing, OPTIONAL, (CUstream stream, int *status))                             \
    X(exchange_capture_mode, cuThreadExchangeStreamCaptureMode, OPTIONAL, (int *mode))

typedef struct cuda_driver {
#define X(field, symbol, need, parameters) CUresult(*field) parameters;
    CUDA_DRIVER_CALLS(X)
#undef X
} cuda_driver;

/* NOT_SUPPORTED: no library, or a call is missing; `why` says which. */
acre_status cuda_driver_load(cuda_driver *driver, const acre_cuda_options *options, acre_cuda_error *why);
/* "CUDA_ERROR_OUT_OF_MEMORY"; for a person. */
const char *cuda_driver_error_name(const cuda_driver *driver, CUresult result);
/* What a failed call means: OUT_OF_MEMORY is NO_MEMORY, NOT_SUPPORTED too is its own, the rest SYSTEM. */
acre_status cuda_driver_status(CUresult result);

#endif

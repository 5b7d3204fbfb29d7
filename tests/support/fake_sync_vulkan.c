/* fake_sync: fences, semaphores and the queue of the fake device (see fake_vulkan.h), and what the GPU is busy with.
 *
 * The queue does nothing but sparse binds and signals. A batch runs when the queue is not held, all before it have run
 * and its semaphores are reached; so a test decides when the GPU is done. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake_vulkan_inside.h"

/* --- what the GPU is busy with ------------------------------------------------------------------------------------ */

const fake_flight *fake_flight_in(fake_vk *gpu, const fake_memory *memory, VkDeviceSize offset, VkDeviceSize end)
{
    for (uint64_t i = 0; i < gpu->flight_count; i++) {
        const fake_flight *f = &gpu->flights[i];
        if (f->memory == memory && f->offset < end && offset < f->end) return f;
    }
    return NULL;
}

const fake_flight *fake_flight_of(fake_vk *gpu, uint64_t resource)
{
    for (uint64_t i = 0; i < gpu->flight_count; i++)
        if (gpu->flights[i].resource == resource) return &gpu->flights[i];
    return NULL;
}

void fake_flight_add(fake_vk *gpu, const fake_flight *flight)
{
    const fake_sync *sync = (fake_sync *)fake_look(gpu, flight->sync);
    if (sync->value >= flight->value) return;
    if (gpu->flight_count == gpu->flight_capacity) {
        gpu->flight_capacity = gpu->flight_capacity ? gpu->flight_capacity * 2 : 64;
        gpu->flights = realloc(gpu->flights, gpu->flight_capacity * sizeof(fake_flight));
        if (gpu->flights == NULL) abort();
    }
    gpu->flights[gpu->flight_count++] = *flight;
}

/* Forgets what has landed. */
static void land(fake_vk *gpu, const fake_sync *sync)
{
    for (uint64_t i = 0; i < gpu->flight_count; i++)
        if (gpu->flights[i].sync == sync->object.id && gpu->flights[i].value <= sync->value)
            gpu->flights[i--] = gpu->flights[--gpu->flight_count];
}

static bool busy_until(fake_vk *gpu, uint64_t sync)
{
    for (uint64_t i = 0; i < gpu->flight_count; i++)
        if (gpu->flights[i].sync == sync) return true;
    return false;
}

/* --- the queue ---------------------------------------------------------------------------------------------------- */

void fake_batch_free(fake_batch *batch)
{
    free(batch->binds);
    free(batch);
}

static fake_sync *sync_of(fake_vk *gpu, uint64_t id)
{
    fake_object *object = fake_look(gpu, id);
    bool sync = object != NULL && (object->kind == FAKE_SEMAPHORE || object->kind == FAKE_FENCE);
    return sync ? (fake_sync *)object : NULL;
}

static void set(fake_vk *gpu, fake_sync *sync, uint64_t value)
{
    sync->value = value;
    land(gpu, sync);
}

static bool may_run(fake_vk *gpu, const fake_batch *batch)
{
    for (uint32_t i = 0; i < batch->wait_count; i++) {
        const fake_sync *sync = sync_of(gpu, batch->waits[i].semaphore);
        if (sync != NULL && sync->value < (sync->timeline ? batch->waits[i].value : 1)) return false;
    }
    return true;
}

static void run_batches(fake_vk *gpu)
{
    while (gpu->first_batch != NULL && !gpu->queue_held && may_run(gpu, gpu->first_batch)) {
        fake_batch *batch = gpu->first_batch;
        gpu->first_batch = batch->next;
        for (uint32_t i = 0; i < batch->wait_count; i++) {
            fake_sync *sync = sync_of(gpu, batch->waits[i].semaphore);
            if (sync != NULL && !sync->timeline) sync->value = 0;
        }
        for (uint32_t i = 0; i < batch->bind_count; i++) {
            fake_memory *memory = (fake_memory *)fake_look(gpu, batch->binds[i].memory);
            if (memory != NULL) memory->queued_binds--;
            fake_sparse_apply(gpu, &batch->binds[i]);
        }
        for (uint32_t i = 0; i < batch->signal_count; i++) {
            fake_sync *sync = sync_of(gpu, batch->signals[i].semaphore);
            if (sync != NULL) set(gpu, sync, sync->timeline ? batch->signals[i].value : 1);
        }
        fake_sync *fence = sync_of(gpu, batch->fence);
        if (fence != NULL) set(gpu, fence, 1);
        fake_batch_free(batch);
    }
    if (gpu->first_batch == NULL) gpu->last_batch = NULL;
    pthread_cond_broadcast(&gpu->moved);
}

void fake_batch_append(fake_vk *gpu, fake_batch *batch)
{
    for (uint32_t i = 0; i < batch->wait_count; i++)
        fake_find(gpu, FAKE_SEMAPHORE, batch->waits[i].semaphore, "a batch that waits");
    for (uint32_t i = 0; i < batch->signal_count; i++)
        fake_find(gpu, FAKE_SEMAPHORE, batch->signals[i].semaphore, "a batch that signals");
    if (batch->fence) fake_find(gpu, FAKE_FENCE, batch->fence, "a batch with a fence");
    for (uint32_t i = 0; i < batch->bind_count; i++) {
        fake_memory *memory = (fake_memory *)fake_look(gpu, batch->binds[i].memory);
        if (memory != NULL) memory->queued_binds++;
    }
    batch->next = NULL;
    if (gpu->first_batch == NULL)
        gpu->first_batch = batch;
    else
        gpu->last_batch->next = batch;
    gpu->last_batch = batch;
    run_batches(gpu);
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkQueueSubmit(VkQueue queue, uint32_t count, const VkSubmitInfo *infos,
                                                  VkFence fence)
{
    fake_vk *gpu = queue->gpu;
    VkResult result = fake_enter(gpu, FAKE_VK_QueueSubmit);
    if (result != VK_SUCCESS) return result;
    for (uint32_t s = 0; s < count || (s == 0 && fence); s++) {
        const VkSubmitInfo *info = s < count ? &infos[s] : &(VkSubmitInfo){.pNext = NULL};
        const VkTimelineSemaphoreSubmitInfo *timeline =
            fake_chained(info->pNext, VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO);
        fake_batch *batch = fake_zeroed(sizeof *batch);
        for (uint32_t i = 0; i < info->waitSemaphoreCount && i < FAKE_BATCH_MAX; i++) {
            bool known = timeline && i < timeline->waitSemaphoreValueCount;
            batch->waits[batch->wait_count++] = (fake_point){FAKE_VK_ID(info->pWaitSemaphores[i]),
                                                             known ? timeline->pWaitSemaphoreValues[i] : 1};
        }
        for (uint32_t i = 0; i < info->signalSemaphoreCount && i < FAKE_BATCH_MAX; i++) {
            bool known = timeline && i < timeline->signalSemaphoreValueCount;
            batch->signals[batch->signal_count++] = (fake_point){FAKE_VK_ID(info->pSignalSemaphores[i]),
                                                                 known ? timeline->pSignalSemaphoreValues[i] : 1};
        }
        if (s + 1 >= count) batch->fence = FAKE_VK_ID(fence);
        fake_batch_append(gpu, batch);
    }
    fake_leave(gpu);
    return VK_SUCCESS;
}

static VkResult wait_idle(fake_vk *gpu)
{
    VkResult result = fake_enter(gpu, FAKE_VK_WaitIdle);
    if (result != VK_SUCCESS) return result;
    while (gpu->first_batch != NULL) pthread_cond_wait(&gpu->moved, &gpu->lock);
    fake_leave(gpu);
    return VK_SUCCESS;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkQueueWaitIdle(VkQueue queue) { return wait_idle(queue->gpu); }
VKAPI_ATTR VkResult VKAPI_CALL fake_vkDeviceWaitIdle(VkDevice device) { return wait_idle(device->gpu); }

void fake_vk_hold_queue(fake_vk *gpu, bool held)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->queue_held = held;
    run_batches(gpu);
    pthread_mutex_unlock(&gpu->lock);
}

/* --- waiting ------------------------------------------------------------------------------------------------------ */

static struct timespec deadline_of(uint64_t timeout_ns)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    if (timeout_ns > 1000000000000000ull) timeout_ns = 1000000000000000ull; /* eleven days */
    uint64_t ns = (uint64_t)at.tv_nsec + timeout_ns % 1000000000u;
    at.tv_sec += (time_t)(timeout_ns / 1000000000u + ns / 1000000000u);
    at.tv_nsec = (long)(ns % 1000000000u);
    return at;
}

/* Under the lock; the objects are looked up anew after every sleep, for they may be gone. */
static VkResult wait_for(fake_vk *gpu, fake_kind kind, const uint64_t *ids, const uint64_t *values, uint32_t count,
                         bool all, uint64_t timeout_ns, const char *where)
{
    struct timespec deadline = deadline_of(timeout_ns);
    for (;;) {
        uint32_t reached = 0;
        for (uint32_t i = 0; i < count; i++) {
            const fake_sync *sync = fake_find(gpu, kind, ids[i], where);
            if (sync == NULL) return VK_ERROR_DEVICE_LOST;
            reached += sync->value >= values[i];
        }
        if (all ? reached == count : reached != 0) return VK_SUCCESS;
        if (timeout_ns == 0 || pthread_cond_timedwait(&gpu->moved, &gpu->lock, &deadline) != 0) return VK_TIMEOUT;
    }
}

/* --- fences ------------------------------------------------------------------------------------------------------- */

VKAPI_ATTR VkResult VKAPI_CALL fake_vkCreateFence(VkDevice device, const VkFenceCreateInfo *info,
                                                  const VkAllocationCallbacks *callbacks, VkFence *fence)
{
    (void)callbacks;
    VkResult result = fake_enter(device->gpu, FAKE_VK_CreateFence);
    if (result != VK_SUCCESS) return result;
    fake_sync *sync = fake_zeroed(sizeof *sync);
    sync->value = info->flags & VK_FENCE_CREATE_SIGNALED_BIT ? 1 : 0;
    *fence = (VkFence)(uintptr_t)fake_add(device->gpu, FAKE_FENCE, &sync->object);
    fake_leave(device->gpu);
    return VK_SUCCESS;
}

static void destroy_sync(fake_vk *gpu, fake_kind kind, uint64_t id, const char *where)
{
    fake_sync *sync = id ? fake_find(gpu, kind, id, where) : NULL;
    if (sync == NULL) return;
    if (busy_until(gpu, id)) fake_wrong(gpu, FAKE_VK_WRONG_GPU_BUSY, "%s: %#lx", where, (unsigned long)id);
    sync->value = UINT64_MAX;
    land(gpu, sync);
    fake_remove(gpu, &sync->object);
    free(sync);
}

VKAPI_ATTR void VKAPI_CALL fake_vkDestroyFence(VkDevice device, VkFence fence, const VkAllocationCallbacks *callbacks)
{
    (void)callbacks;
    fake_enter(device->gpu, FAKE_VK_DestroyFence);
    destroy_sync(device->gpu, FAKE_FENCE, FAKE_VK_ID(fence), "vkDestroyFence");
    fake_leave(device->gpu);
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkGetFenceStatus(VkDevice device, VkFence fence)
{
    VkResult result = fake_enter(device->gpu, FAKE_VK_GetFenceStatus);
    if (result != VK_SUCCESS) return result;
    const fake_sync *sync = fake_find(device->gpu, FAKE_FENCE, FAKE_VK_ID(fence), "vkGetFenceStatus");
    result = sync == NULL ? VK_ERROR_DEVICE_LOST : sync->value ? VK_SUCCESS : VK_NOT_READY;
    fake_leave(device->gpu);
    return result;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkWaitForFences(VkDevice device, uint32_t count, const VkFence *fences,
                                                    VkBool32 all, uint64_t timeout)
{
    VkResult result = fake_enter(device->gpu, FAKE_VK_WaitForFences);
    if (result != VK_SUCCESS) return result;
    uint64_t *ids = fake_zeroed(count * 2 * sizeof *ids);
    for (uint32_t i = 0; i < count; i++) {
        ids[i] = FAKE_VK_ID(fences[i]);
        ids[count + i] = 1;
    }
    result = wait_for(device->gpu, FAKE_FENCE, ids, ids + count, count, all, timeout, "vkWaitForFences");
    free(ids);
    fake_leave(device->gpu);
    return result;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkResetFences(VkDevice device, uint32_t count, const VkFence *fences)
{
    fake_vk *gpu = device->gpu;
    VkResult result = fake_enter(gpu, FAKE_VK_ResetFences);
    if (result != VK_SUCCESS) return result;
    for (uint32_t i = 0; i < count; i++) {
        fake_sync *sync = fake_find(gpu, FAKE_FENCE, FAKE_VK_ID(fences[i]), "vkResetFences");
        if (sync == NULL) continue;
        if (busy_until(gpu, sync->object.id))
            fake_wrong(gpu, FAKE_VK_WRONG_GPU_BUSY, "vkResetFences: %#lx", (unsigned long)sync->object.id);
        sync->value = 0;
    }
    fake_leave(gpu);
    return VK_SUCCESS;
}

void fake_vk_signal_fence(fake_vk *gpu, VkFence fence)
{
    pthread_mutex_lock(&gpu->lock);
    fake_sync *sync = fake_find(gpu, FAKE_FENCE, FAKE_VK_ID(fence), "signal_fence");
    if (sync != NULL) set(gpu, sync, 1);
    run_batches(gpu);
    pthread_mutex_unlock(&gpu->lock);
}

/* --- semaphores --------------------------------------------------------------------------------------------------- */

VKAPI_ATTR VkResult VKAPI_CALL fake_vkCreateSemaphore(VkDevice device, const VkSemaphoreCreateInfo *info,
                                                      const VkAllocationCallbacks *callbacks, VkSemaphore *semaphore)
{
    (void)callbacks;
    fake_vk *gpu = device->gpu;
    VkResult result = fake_enter(gpu, FAKE_VK_CreateSemaphore);
    if (result != VK_SUCCESS) return result;
    const VkSemaphoreTypeCreateInfo *type = fake_chained(info->pNext, VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO);
    fake_sync *sync = fake_zeroed(sizeof *sync);
    sync->timeline = type != NULL && type->semaphoreType == VK_SEMAPHORE_TYPE_TIMELINE;
    sync->value = sync->timeline ? type->initialValue : 0;
    if (sync->timeline && (gpu->options.without & FAKE_VK_NO_TIMELINE))
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "vkCreateSemaphore: a timeline");
    *semaphore = (VkSemaphore)(uintptr_t)fake_add(gpu, FAKE_SEMAPHORE, &sync->object);
    fake_leave(gpu);
    return VK_SUCCESS;
}

VKAPI_ATTR void VKAPI_CALL fake_vkDestroySemaphore(VkDevice device, VkSemaphore semaphore,
                                                   const VkAllocationCallbacks *callbacks)
{
    (void)callbacks;
    fake_enter(device->gpu, FAKE_VK_DestroySemaphore);
    destroy_sync(device->gpu, FAKE_SEMAPHORE, FAKE_VK_ID(semaphore), "vkDestroySemaphore");
    fake_leave(device->gpu);
}

static fake_sync *timeline_of(fake_vk *gpu, VkSemaphore semaphore, const char *where)
{
    fake_sync *sync = fake_find(gpu, FAKE_SEMAPHORE, FAKE_VK_ID(semaphore), where);
    if (sync == NULL || sync->timeline) return sync;
    fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "%s: %#lx is no timeline", where, (unsigned long)sync->object.id);
    return NULL;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkGetSemaphoreCounterValue(VkDevice device, VkSemaphore semaphore, uint64_t *value)
{
    VkResult result = fake_enter(device->gpu, FAKE_VK_GetSemaphoreCounterValue);
    if (result != VK_SUCCESS) return result;
    const fake_sync *sync = timeline_of(device->gpu, semaphore, "vkGetSemaphoreCounterValue");
    if (sync != NULL) *value = sync->value;
    fake_leave(device->gpu);
    return sync != NULL ? VK_SUCCESS : VK_ERROR_DEVICE_LOST;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkWaitSemaphores(VkDevice device, const VkSemaphoreWaitInfo *info, uint64_t timeout)
{
    VkResult result = fake_enter(device->gpu, FAKE_VK_WaitSemaphores);
    if (result != VK_SUCCESS) return result;
    uint64_t *ids = fake_zeroed(info->semaphoreCount * sizeof *ids);
    for (uint32_t i = 0; i < info->semaphoreCount; i++) ids[i] = FAKE_VK_ID(info->pSemaphores[i]);
    result = wait_for(device->gpu, FAKE_SEMAPHORE, ids, info->pValues, info->semaphoreCount,
                      !(info->flags & VK_SEMAPHORE_WAIT_ANY_BIT), timeout, "vkWaitSemaphores");
    free(ids);
    fake_leave(device->gpu);
    return result;
}

static void move_on(fake_vk *gpu, VkSemaphore semaphore, uint64_t value, const char *where)
{
    fake_sync *sync = fake_find(gpu, FAKE_SEMAPHORE, FAKE_VK_ID(semaphore), where);
    if (sync == NULL) return;
    if (sync->timeline && value <= sync->value)
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "%s: from %lu to %lu", where, (unsigned long)sync->value,
                   (unsigned long)value);
    set(gpu, sync, value);
    run_batches(gpu);
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkSignalSemaphore(VkDevice device, const VkSemaphoreSignalInfo *info)
{
    VkResult result = fake_enter(device->gpu, FAKE_VK_SignalSemaphore);
    if (result != VK_SUCCESS) return result;
    move_on(device->gpu, info->semaphore, info->value, "vkSignalSemaphore");
    fake_leave(device->gpu);
    return VK_SUCCESS;
}

void fake_vk_signal_semaphore(fake_vk *gpu, VkSemaphore semaphore, uint64_t value)
{
    pthread_mutex_lock(&gpu->lock);
    move_on(gpu, semaphore, value, "signal_semaphore");
    pthread_mutex_unlock(&gpu->lock);
}

/* vk_external: device memory that others have a share in: file descriptors out and in, and pages of the CPU's.
 *
 * Imported memory is a page of a single block. It is held and live in the books, since it takes of the heap's budget as
 * the driver sees it, but a budget never refuses it: the memory is there already. Host pages go to the first type that
 * the driver allows for them and that the request likes; the block's CPU address is the pages' own, so nothing is
 * mapped, unless the type is not coherent: flushes go by what the driver knows as mapped. */
#include <string.h>

#include "gpu/vk_internal.h"

acre_status acre_vk_export_fd(acre_vk *vk, uint64_t handle, int *fd)
{
    if (vk == NULL || fd == NULL) return ACRE_INVALID_ARGUMENT;
    if (vk->call.GetMemoryFdKHR == NULL) return ACRE_NOT_SUPPORTED;
    vk_block *b;
    acre_status status = vk_resolve(vk, handle, &b);
    if (status != ACRE_OK) return status;
    if (!b->page->exported) return ACRE_INVALID_ARGUMENT;
    VkMemoryGetFdInfoKHR info = {.sType = VK_STRUCTURE_TYPE_MEMORY_GET_FD_INFO_KHR,
                                 .memory = b->page->memory,
                                 .handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT};
    return vk_status(vk, vk->call.GetMemoryFdKHR(vk->device, &info, fd));
}

/* Room for the request's name, made before the driver is asked. */
static acre_status make_name(const acre_vk_request *r, char **name)
{
    *name = NULL;
    if (r->name == NULL) return ACRE_OK;
    *name = arena_alloc(ACRE_GPU_NAME_MAX + 1);
    if (*name == NULL) return ACRE_NO_MEMORY;
    strncpy(*name, r->name, ACRE_GPU_NAME_MAX);
    return ACRE_OK;
}

/* The block has its memory; the rest as for any other. Takes the name. */
static acre_status finish(acre_vk *vk, vk_block *b, const acre_vk_request *r, char *name,
                          acre_vk_allocation *allocation)
{
    uint32_t state = atomic_load_explicit(&b->state, memory_order_relaxed) & ~(uint32_t)BLOCK_STATE_MASK;
    acre_status status = ACRE_OK;
    state = (state + (1u << BLOCK_STATE_BITS)) | BLOCK_LIVE;
    VK_SET(b->category, (uint8_t)r->category);
    VK_SET(b->tag, r->tag);
    atomic_store_explicit(&b->map_count, 0, memory_order_release);
    if (r->flags & ACRE_VK_MAPPED) {
        vk_block_add_flag(b, BLOCK_MAPPED);
        (void)vk_page_map(vk, b->page, &status);
    }
    if (name != NULL) vk_block_name(vk, b, name);
    if (status != ACRE_OK) {
        vk_discharge(vk, r->category, b->page->heap, b->size);
        vk_block_release(vk, b);
        return status;
    }
    vk_describe(vk, b, state, allocation);
    atomic_store_explicit(&b->state, state, memory_order_release);
    return ACRE_OK;
}

static bool request_fits(const acre_vk *vk, const acre_vk_request *r)
{
    return (unsigned)r->usage < ACRE_VK_USAGE_COUNT && r->category < vk->category_count && r->pool == NULL &&
           !(r->flags & ACRE_VK_EXPORT);
}

acre_status acre_vk_import_fd(acre_vk *vk, int fd, VkDeviceSize bytes, uint32_t memory_type,
                              const acre_vk_request *request, VkBuffer buffer, VkImage image,
                              acre_vk_allocation *allocation)
{
    if (request == NULL) request = &vk_default_request;
    if (vk == NULL || allocation == NULL || bytes == 0 || fd < 0) return ACRE_INVALID_ARGUMENT;
    if (memory_type >= vk->memory.memoryTypeCount || !request_fits(vk, request)) return ACRE_INVALID_ARGUMENT;
    if (!(vk->features & ACRE_VK_HAS_EXTERNAL_FD)) return ACRE_NOT_SUPPORTED;
    VkImportMemoryFdInfoKHR import = {.sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR,
                                      .handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT,
                                      .fd = fd};
    vk_want want = {.bytes = bytes, .buffer = buffer, .image = image, .request = request};
    acre_gpu_shortage why = {.category = request->category};
    vk_block *b;
    char *name;
    acre_status status = make_name(request, &name);
    if (status == ACRE_OK) status = vk_alloc_alone(vk, &want, memory_type, bytes, &import, true, true, &b, &why);
    if (status == ACRE_OK) return finish(vk, b, request, name, allocation);
    arena_free(name, ACRE_GPU_NAME_MAX + 1);
    vk_shortage_note(vk, &why, status, &want, vk->heap_of[memory_type]);
    return status;
}

acre_status acre_vk_import_host(acre_vk *vk, void *address, size_t bytes, const acre_vk_request *request,
                                acre_vk_allocation *allocation)
{
    if (request == NULL) request = &vk_default_request;
    if (vk == NULL || allocation == NULL || address == NULL || bytes == 0) return ACRE_INVALID_ARGUMENT;
    if (!request_fits(vk, request)) return ACRE_INVALID_ARGUMENT;
    if (vk->call.GetMemoryHostPointerPropertiesEXT == NULL || vk->host_alignment == 0) return ACRE_NOT_SUPPORTED;
    if ((uintptr_t)address % vk->host_alignment != 0 || bytes % vk->host_alignment != 0) return ACRE_INVALID_ARGUMENT;

    VkExternalMemoryHandleTypeFlagBits kind = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;
    VkMemoryHostPointerPropertiesEXT properties = {.sType = VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT};
    VkResult result = vk->call.GetMemoryHostPointerPropertiesEXT(vk->device, kind, address, &properties);
    if (result != VK_SUCCESS) return vk_status(vk, result);
    uint32_t bits = properties.memoryTypeBits & vk->host_visible_types;
    if (request->type_bits != 0) bits &= request->type_bits;
    acre_vk_request rather = *request;
    rather.preferred |= VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    vk_type_list list;
    vk_types_order(vk, &rather, bits, &list);
    if (list.count == 0) return ACRE_NOT_SUPPORTED;

    uint32_t type = list.types[0];
    VkImportMemoryHostPointerInfoEXT import = {.sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT,
                                               .handleType = kind,
                                               .pHostPointer = address};
    vk_want want = {.bytes = bytes, .request = request};
    acre_gpu_shortage why = {.category = request->category};
    vk_block *b;
    char *name;
    acre_status status = make_name(request, &name);
    if (status == ACRE_OK) status = vk_alloc_alone(vk, &want, type, bytes, &import, true, true, &b, &why);
    if (status != ACRE_OK) {
        arena_free(name, ACRE_GPU_NAME_MAX + 1);
        vk_shortage_note(vk, &why, status, &want, vk->heap_of[type]);
        return status;
    }
    VK_SET(b->page->host, true);
    if (vk->coherent_types >> type & 1)
        atomic_store_explicit(&b->page->mapped, (char *)address, memory_order_release);
    else
        (void)vk_page_map(vk, b->page, &status);
    if (status != ACRE_OK) {
        arena_free(name, ACRE_GPU_NAME_MAX + 1);
        vk_discharge(vk, request->category, b->page->heap, b->size);
        vk_block_release(vk, b);
        return status;
    }
    return finish(vk, b, request, name, allocation);
}

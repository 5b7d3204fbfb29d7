/* vk_resource: buffers and images together with their memory.
 *
 * What a resource needs is asked with vkGet…MemoryRequirements2 where there is one: it says, too, whether the driver
 * wants the resource to have memory of its own. To create is to make the resource, allocate, bind; each step that fails
 * undoes those before it. */
#include "gpu/vk_internal.h"

static acre_status refuse_null(acre_vk *vk, const void *a, const void *b)
{
    return vk == NULL || a == NULL || b == NULL ? ACRE_INVALID_ARGUMENT : ACRE_OK;
}

static void want_of(vk_want *want, const VkMemoryRequirements *r, const VkMemoryDedicatedRequirements *d)
{
    want->bytes = r->size;
    want->alignment = r->alignment;
    want->type_bits = r->memoryTypeBits;
    want->prefers_dedicated = d->prefersDedicatedAllocation || d->requiresDedicatedAllocation;
    want->requires_dedicated = d->requiresDedicatedAllocation;
}

static void ask_buffer(acre_vk *vk, VkBuffer buffer, vk_want *want)
{
    VkMemoryDedicatedRequirements dedicated = {.sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_REQUIREMENTS};
    VkMemoryRequirements2 two = {.sType = VK_STRUCTURE_TYPE_MEMORY_REQUIREMENTS_2, .pNext = &dedicated};
    if (vk->call.GetBufferMemoryRequirements2 != NULL) {
        VkBufferMemoryRequirementsInfo2 info = {.sType = VK_STRUCTURE_TYPE_BUFFER_MEMORY_REQUIREMENTS_INFO_2,
                                                .buffer = buffer};
        vk->call.GetBufferMemoryRequirements2(vk->device, &info, &two);
    } else {
        vk->call.GetBufferMemoryRequirements(vk->device, buffer, &two.memoryRequirements);
    }
    want_of(want, &two.memoryRequirements, &dedicated);
    want->buffer = buffer;
}

static void ask_image(acre_vk *vk, VkImage image, vk_want *want)
{
    VkMemoryDedicatedRequirements dedicated = {.sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_REQUIREMENTS};
    VkMemoryRequirements2 two = {.sType = VK_STRUCTURE_TYPE_MEMORY_REQUIREMENTS_2, .pNext = &dedicated};
    if (vk->call.GetImageMemoryRequirements2 != NULL) {
        VkImageMemoryRequirementsInfo2 info = {.sType = VK_STRUCTURE_TYPE_IMAGE_MEMORY_REQUIREMENTS_INFO_2,
                                               .image = image};
        vk->call.GetImageMemoryRequirements2(vk->device, &info, &two);
    } else {
        vk->call.GetImageMemoryRequirements(vk->device, image, &two.memoryRequirements);
    }
    want_of(want, &two.memoryRequirements, &dedicated);
    want->image = image;
}

static const acre_vk_request *request_or_default(const acre_vk_request *request)
{
    return request != NULL ? request : &vk_default_request;
}

acre_status acre_vk_alloc_for_buffer(acre_vk *vk, VkBuffer buffer, const acre_vk_request *request,
                                     acre_vk_allocation *allocation)
{
    if (vk == NULL || buffer == VK_NULL_HANDLE || allocation == NULL) return ACRE_INVALID_ARGUMENT;
    vk_want want = {.kind = KIND_LINEAR, .request = request_or_default(request)};
    ask_buffer(vk, buffer, &want);
    return vk_alloc(vk, &want, allocation);
}

acre_status acre_vk_alloc_for_image(acre_vk *vk, VkImage image, const acre_vk_request *request,
                                    acre_vk_allocation *allocation)
{
    if (vk == NULL || image == VK_NULL_HANDLE || allocation == NULL) return ACRE_INVALID_ARGUMENT;
    /* Its tiling is not known here. */
    vk_want want = {.kind = KIND_UNKNOWN, .request = request_or_default(request)};
    ask_image(vk, image, &want);
    return vk_alloc(vk, &want, allocation);
}

/* --- binding ---------------------------------------------------------------------------------------------------- */

acre_status acre_vk_bind_buffer(acre_vk *vk, uint64_t handle, VkDeviceSize offset, VkBuffer buffer)
{
    if (vk == NULL || buffer == VK_NULL_HANDLE) return ACRE_INVALID_ARGUMENT;
    vk_block *b;
    acre_status status = vk_resolve(vk, handle, &b);
    if (status != ACRE_OK) return status;
    if (offset >= b->size) return ACRE_INVALID_ARGUMENT;
    return vk_status(vk, vk->call.BindBufferMemory(vk->device, buffer, b->page->memory, b->offset + offset));
}

acre_status acre_vk_bind_image(acre_vk *vk, uint64_t handle, VkDeviceSize offset, VkImage image)
{
    if (vk == NULL || image == VK_NULL_HANDLE) return ACRE_INVALID_ARGUMENT;
    vk_block *b;
    acre_status status = vk_resolve(vk, handle, &b);
    if (status != ACRE_OK) return status;
    if (offset >= b->size) return ACRE_INVALID_ARGUMENT;
    return vk_status(vk, vk->call.BindImageMemory(vk->device, image, b->page->memory, b->offset + offset));
}

/* --- creating --------------------------------------------------------------------------------------------------- */

acre_status acre_vk_create_buffer(acre_vk *vk, const VkBufferCreateInfo *info, const acre_vk_request *request,
                                  VkBuffer *buffer, acre_vk_allocation *allocation)
{
    acre_status status = refuse_null(vk, info, buffer);
    if (status != ACRE_OK || allocation == NULL) return ACRE_INVALID_ARGUMENT;
    if (info->flags & VK_BUFFER_CREATE_SPARSE_BINDING_BIT) return ACRE_NOT_SUPPORTED;
    vk_want want = {.kind = KIND_LINEAR, .request = request_or_default(request)};
    VkExternalMemoryBufferCreateInfo external = {.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO,
                                                 .pNext = info->pNext,
                                                 .handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT};
    VkBufferCreateInfo with_external = *info;
    with_external.pNext = &external;
    bool exported = (want.request->flags & ACRE_VK_EXPORT) != 0;
    VkBuffer made = VK_NULL_HANDLE;
    acre_vk_allocation memory;
    status = vk_status(vk, vk->call.CreateBuffer(vk->device, exported ? &with_external : info, vk->callbacks_or_null,
                                                 &made));
    if (status != ACRE_OK) return status;
    ask_buffer(vk, made, &want);
    status = vk_alloc(vk, &want, &memory);
    if (status != ACRE_OK) goto destroy;
    if (!(want.request->flags & ACRE_VK_NO_BIND))
        status = vk_status(vk, vk->call.BindBufferMemory(vk->device, made, memory.memory, memory.offset));
    if (status != ACRE_OK) goto free_memory;
    *buffer = made;
    *allocation = memory;
    return ACRE_OK;

free_memory:
    (void)acre_vk_free(vk, memory.handle);
destroy:
    vk->call.DestroyBuffer(vk->device, made, vk->callbacks_or_null);
    return status;
}

acre_status acre_vk_create_image(acre_vk *vk, const VkImageCreateInfo *info, const acre_vk_request *request,
                                 VkImage *image, acre_vk_allocation *allocation)
{
    acre_status status = refuse_null(vk, info, image);
    if (status != ACRE_OK || allocation == NULL) return ACRE_INVALID_ARGUMENT;
    /* Planes of a disjoint image are bound one by one, pieces of a sparse one by a queue: acre_vk_alloc serves them. */
    if (info->flags & (VK_IMAGE_CREATE_DISJOINT_BIT | VK_IMAGE_CREATE_SPARSE_BINDING_BIT)) return ACRE_NOT_SUPPORTED;
    enum vk_kind kind = info->tiling == VK_IMAGE_TILING_LINEAR    ? KIND_LINEAR
                        : info->tiling == VK_IMAGE_TILING_OPTIMAL ? KIND_OPTIMAL
                                                                  : KIND_UNKNOWN;
    vk_want want = {.kind = kind, .request = request_or_default(request)};
    VkExternalMemoryImageCreateInfo external = {.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_IMAGE_CREATE_INFO,
                                                .pNext = info->pNext,
                                                .handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT};
    VkImageCreateInfo with_external = *info;
    with_external.pNext = &external;
    bool exported = (want.request->flags & ACRE_VK_EXPORT) != 0;
    VkImage made = VK_NULL_HANDLE;
    acre_vk_allocation memory;
    status =
        vk_status(vk, vk->call.CreateImage(vk->device, exported ? &with_external : info, vk->callbacks_or_null, &made));
    if (status != ACRE_OK) return status;
    ask_image(vk, made, &want);
    status = vk_alloc(vk, &want, &memory);
    if (status != ACRE_OK) goto destroy;
    if (!(want.request->flags & ACRE_VK_NO_BIND))
        status = vk_status(vk, vk->call.BindImageMemory(vk->device, made, memory.memory, memory.offset));
    if (status != ACRE_OK) goto free_memory;
    *image = made;
    *allocation = memory;
    return ACRE_OK;

free_memory:
    (void)acre_vk_free(vk, memory.handle);
destroy:
    vk->call.DestroyImage(vk->device, made, vk->callbacks_or_null);
    return status;
}

/* --- destroying ------------------------------------------------------------------------------------------------- */

acre_status acre_vk_destroy_buffer(acre_vk *vk, VkBuffer buffer, uint64_t handle)
{
    if (vk == NULL) return ACRE_INVALID_ARGUMENT;
    vk_block *b;
    acre_status status = handle != 0 ? vk_resolve(vk, handle, &b) : ACRE_OK;
    if (status != ACRE_OK) return status;
    /* The resource first: nobody may be bound to memory that is handed out again. */
    if (buffer != VK_NULL_HANDLE) vk->call.DestroyBuffer(vk->device, buffer, vk->callbacks_or_null);
    return acre_vk_free(vk, handle);
}

acre_status acre_vk_destroy_image(acre_vk *vk, VkImage image, uint64_t handle)
{
    if (vk == NULL) return ACRE_INVALID_ARGUMENT;
    vk_block *b;
    acre_status status = handle != 0 ? vk_resolve(vk, handle, &b) : ACRE_OK;
    if (status != ACRE_OK) return status;
    if (image != VK_NULL_HANDLE) vk->call.DestroyImage(vk->device, image, vk->callbacks_or_null);
    return acre_vk_free(vk, handle);
}

/* --- aliases ---------------------------------------------------------------------------------------------------- */

static acre_status fits(const vk_block *b, VkDeviceSize offset, const vk_want *want)
{
    if (!(want->type_bits >> b->page->memory_type & 1)) return ACRE_INVALID_ARGUMENT;
    if (((b->offset + offset) & (want->alignment - 1)) != 0) return ACRE_INVALID_ARGUMENT;
    if (offset > b->size || want->bytes > b->size - offset) return ACRE_TOO_LARGE;
    return ACRE_OK;
}

acre_status acre_vk_create_aliasing_buffer(acre_vk *vk, uint64_t handle, VkDeviceSize offset,
                                           const VkBufferCreateInfo *info, VkBuffer *buffer)
{
    acre_status status = refuse_null(vk, info, buffer);
    if (status != ACRE_OK) return status;
    vk_block *b;
    status = vk_resolve(vk, handle, &b);
    if (status != ACRE_OK) return status;
    VkBuffer made = VK_NULL_HANDLE;
    status = vk_status(vk, vk->call.CreateBuffer(vk->device, info, vk->callbacks_or_null, &made));
    if (status != ACRE_OK) return status;
    vk_want want = {0};
    ask_buffer(vk, made, &want);
    status = fits(b, offset, &want);
    if (status == ACRE_OK)
        status = vk_status(vk, vk->call.BindBufferMemory(vk->device, made, b->page->memory, b->offset + offset));
    if (status == ACRE_OK)
        *buffer = made;
    else
        vk->call.DestroyBuffer(vk->device, made, vk->callbacks_or_null);
    return status;
}

acre_status acre_vk_create_aliasing_image(acre_vk *vk, uint64_t handle, VkDeviceSize offset,
                                          const VkImageCreateInfo *info, VkImage *image)
{
    acre_status status = refuse_null(vk, info, image);
    if (status != ACRE_OK) return status;
    vk_block *b;
    status = vk_resolve(vk, handle, &b);
    if (status != ACRE_OK) return status;
    VkImage made = VK_NULL_HANDLE;
    status = vk_status(vk, vk->call.CreateImage(vk->device, info, vk->callbacks_or_null, &made));
    if (status != ACRE_OK) return status;
    vk_want want = {0};
    ask_image(vk, made, &want);
    status = fits(b, offset, &want);
    if (status == ACRE_OK)
        status = vk_status(vk, vk->call.BindImageMemory(vk->device, made, b->page->memory, b->offset + offset));
    if (status == ACRE_OK)
        *image = made;
    else
        vk->call.DestroyImage(vk->device, made, vk->callbacks_or_null);
    return status;
}

acre_status acre_vk_merge_requirements(VkMemoryRequirements *requirements, const VkMemoryRequirements *other)
{
    if (requirements == NULL || other == NULL) return ACRE_INVALID_ARGUMENT;
    if ((requirements->memoryTypeBits & other->memoryTypeBits) == 0) return ACRE_NOT_SUPPORTED;
    if (requirements->size < other->size) requirements->size = other->size;
    if (requirements->alignment < other->alignment) requirements->alignment = other->alignment;
    requirements->memoryTypeBits &= other->memoryTypeBits;
    return ACRE_OK;
}

/* vk_types: which memory type serves a request.
 *
 * A usage requires properties of a type, wishes for some and would rather not have others. What the program asks for
 * besides weighs more than a usage's main wish, which weighs more than its lesser ones; the order of the driver, which
 * lists faster types first, decides among equals. The orders of plain requests, usage and MAPPED alone, are made once:
 * a hit walks a list to the first type that the resource allows. */
#include <string.h>

#include "gpu/vk_internal.h"

typedef struct usage_rule {
    VkMemoryPropertyFlags required;
    VkMemoryPropertyFlags main_wish, main_dislike;
    VkMemoryPropertyFlags lesser_wish, lesser_dislike;
} usage_rule;

#define LOCAL VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
#define VISIBLE VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT
#define COHERENT VK_MEMORY_PROPERTY_HOST_COHERENT_BIT
#define CACHED VK_MEMORY_PROPERTY_HOST_CACHED_BIT
#define LAZILY VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT
#define PROTECTED VK_MEMORY_PROPERTY_PROTECTED_BIT
#define AMD_TYPES (VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD | VK_MEMORY_PROPERTY_DEVICE_UNCACHED_BIT_AMD)

static const usage_rule rules[ACRE_VK_USAGE_COUNT] = {
    [ACRE_VK_GPU] = {0, LOCAL, 0, 0, VISIBLE},
    [ACRE_VK_UPLOAD] = {VISIBLE, COHERENT, 0, 0, CACHED | LOCAL},
    [ACRE_VK_READBACK] = {VISIBLE, CACHED, 0, COHERENT, LOCAL},
    [ACRE_VK_GPU_MAPPED] = {VISIBLE, LOCAL, 0, COHERENT, CACHED},
    [ACRE_VK_LAZY] = {0, LAZILY, 0, LOCAL, VISIBLE},
};

enum { COST_ASKED = 64, COST_MAIN = 8, COST_LESSER = 1 };

/* UINT32_MAX: the type does not serve it. */
static uint32_t cost_of(const acre_vk *vk, const acre_vk_request *request, uint32_t type)
{
    const usage_rule *rule = &rules[request->usage];
    VkMemoryPropertyFlags has = vk->type_flags[type];
    VkMemoryPropertyFlags required = rule->required | request->required;
    if (request->flags & ACRE_VK_MAPPED) required |= VISIBLE;
    if ((has & required) != required) return UINT32_MAX;
    VkMemoryPropertyFlags asked = request->required | request->preferred;
    if ((has & PROTECTED) && !(asked & PROTECTED)) return UINT32_MAX;
    if ((has & LAZILY) && request->usage != ACRE_VK_LAZY && !(asked & LAZILY)) return UINT32_MAX;
    if ((has & AMD_TYPES) && !(vk->features & ACRE_VK_HAS_COHERENT_AMD)) return UINT32_MAX;
    if (vk->memory.memoryHeaps[vk->heap_of[type]].size == 0) return UINT32_MAX;
    /* Coherent and uncached by the device: only for who names it. */
    uint32_t cost = COST_LESSER * bits_count(has & AMD_TYPES & ~asked);
    cost += COST_ASKED * (bits_count(request->preferred & ~has) + bits_count(request->avoided & has));
    cost += COST_MAIN * (bits_count(rule->main_wish & ~has) + bits_count(rule->main_dislike & has));
    cost += COST_LESSER * (bits_count(rule->lesser_wish & ~has) + bits_count(rule->lesser_dislike & has));
    return cost;
}

void vk_types_order(const acre_vk *vk, const acre_vk_request *request, uint32_t type_bits, vk_type_list *list)
{
    uint32_t costs[VK_MAX_MEMORY_TYPES];
    list->count = 0;
    for (uint32_t t = 0; t < vk->memory.memoryTypeCount; t++) {
        uint32_t cost = type_bits >> t & 1 ? cost_of(vk, request, t) : UINT32_MAX;
        if (cost == UINT32_MAX) continue;
        uint32_t at = list->count++;
        for (; at > 0 && costs[at - 1] > cost; at--) {
            costs[at] = costs[at - 1];
            list->types[at] = list->types[at - 1];
        }
        costs[at] = cost;
        list->types[at] = (uint8_t)t;
    }
}

void vk_types_init(acre_vk *vk)
{
    for (uint32_t t = 0; t < vk->memory.memoryTypeCount; t++) {
        vk->heap_of[t] = vk->memory.memoryTypes[t].heapIndex;
        vk->type_flags[t] = vk->memory.memoryTypes[t].propertyFlags;
        if (vk->type_flags[t] & VISIBLE) vk->host_visible_types |= 1u << t;
        if (vk->type_flags[t] & COHERENT) vk->coherent_types |= 1u << t;
    }
    for (unsigned usage = 0; usage < ACRE_VK_USAGE_COUNT; usage++) {
        for (unsigned mapped = 0; mapped < 2; mapped++) {
            acre_vk_request request = {.usage = (acre_vk_usage)usage, .flags = mapped ? ACRE_VK_MAPPED : 0};
            vk_types_order(vk, &request, UINT32_MAX, &vk->order[usage][mapped]);
        }
    }
}

/* --- for the program -------------------------------------------------------------------------------------------- */

acre_status acre_vk_find_memory_type(acre_vk *vk, uint32_t type_bits, const acre_vk_request *request,
                                     uint32_t *memory_type)
{
    if (request == NULL) request = &vk_default_request;
    if (vk == NULL || memory_type == NULL || (unsigned)request->usage >= ACRE_VK_USAGE_COUNT)
        return ACRE_INVALID_ARGUMENT;
    if (request->type_bits != 0) type_bits &= request->type_bits;
    vk_type_list list;
    vk_types_order(vk, request, type_bits, &list);
    if (list.count == 0) return ACRE_NOT_SUPPORTED;
    *memory_type = list.types[0];
    return ACRE_OK;
}

acre_status acre_vk_find_memory_type_for_buffer_info(acre_vk *vk, const VkBufferCreateInfo *info,
                                                     const acre_vk_request *request, uint32_t *memory_type)
{
    if (vk == NULL || info == NULL || memory_type == NULL) return ACRE_INVALID_ARGUMENT;
    VkMemoryRequirements2 two = {.sType = VK_STRUCTURE_TYPE_MEMORY_REQUIREMENTS_2};
    if (vk->call.GetDeviceBufferMemoryRequirements != NULL) {
        VkDeviceBufferMemoryRequirements ask = {.sType = VK_STRUCTURE_TYPE_DEVICE_BUFFER_MEMORY_REQUIREMENTS,
                                                .pCreateInfo = info};
        vk->call.GetDeviceBufferMemoryRequirements(vk->device, &ask, &two);
    } else {
        VkBuffer buffer;
        acre_status status =
            vk_status(vk, vk->call.CreateBuffer(vk->device, info, vk->callbacks_or_null, &buffer));
        if (status != ACRE_OK) return status;
        vk->call.GetBufferMemoryRequirements(vk->device, buffer, &two.memoryRequirements);
        vk->call.DestroyBuffer(vk->device, buffer, vk->callbacks_or_null);
    }
    return acre_vk_find_memory_type(vk, two.memoryRequirements.memoryTypeBits, request, memory_type);
}

acre_status acre_vk_find_memory_type_for_image_info(acre_vk *vk, const VkImageCreateInfo *info,
                                                    const acre_vk_request *request, uint32_t *memory_type)
{
    if (vk == NULL || info == NULL || memory_type == NULL) return ACRE_INVALID_ARGUMENT;
    VkMemoryRequirements2 two = {.sType = VK_STRUCTURE_TYPE_MEMORY_REQUIREMENTS_2};
    /* A disjoint image has requirements of its planes alone: ask for those of the first. */
    bool disjoint = (info->flags & VK_IMAGE_CREATE_DISJOINT_BIT) != 0;
    if (vk->call.GetDeviceImageMemoryRequirements != NULL) {
        VkDeviceImageMemoryRequirements ask = {.sType = VK_STRUCTURE_TYPE_DEVICE_IMAGE_MEMORY_REQUIREMENTS,
                                               .pCreateInfo = info,
                                               .planeAspect = disjoint ? VK_IMAGE_ASPECT_PLANE_0_BIT
                                                                       : (VkImageAspectFlagBits)0};
        vk->call.GetDeviceImageMemoryRequirements(vk->device, &ask, &two);
    } else {
        if (disjoint) return ACRE_NOT_SUPPORTED;
        VkImage image;
        acre_status status = vk_status(vk, vk->call.CreateImage(vk->device, info, vk->callbacks_or_null, &image));
        if (status != ACRE_OK) return status;
        vk->call.GetImageMemoryRequirements(vk->device, image, &two.memoryRequirements);
        vk->call.DestroyImage(vk->device, image, vk->callbacks_or_null);
    }
    return acre_vk_find_memory_type(vk, two.memoryRequirements.memoryTypeBits, request, memory_type);
}

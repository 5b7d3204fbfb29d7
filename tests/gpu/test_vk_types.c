/* test_vk_types: which memory type a usage gets on the graphics cards that people have. The tables are what the drivers
 * report, as public databases list them; sizes are rounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vk_world.h"

enum {
    D = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT,
    V = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT,
    C = VK_MEMORY_PROPERTY_HOST_COHERENT_BIT,
    H = VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
    L = VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT,
    A = VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD | VK_MEMORY_PROPERTY_DEVICE_UNCACHED_BIT_AMD,
    P = VK_MEMORY_PROPERTY_PROTECTED_BIT,
    NO_TYPE = 99,
};

typedef struct card {
    const char *name;
    VkPhysicalDeviceMemoryProperties memory;
    uint32_t gpu, upload, readback, gpu_mapped, lazy; /* the types that are right */
} card;

#define HEAP(gib, flags) {(VkDeviceSize)((gib) * 1024) << 20, flags}
#define HEAP_D(gib) HEAP(gib, VK_MEMORY_HEAP_DEVICE_LOCAL_BIT)

static const card cards[] = {
    {"AMD, 256 MiB BAR, device-coherent types behind the others",
     {8,
      {{D, 0}, {V | C, 1}, {D | V | C, 2}, {V | C | H, 1}, {D | A, 0}, {V | C | A, 1}, {D | V | C | A, 2},
       {V | C | H | A, 1}},
      3,
      {HEAP_D(16), HEAP(16, 0), HEAP_D(0.25)}},
     0, 1, 3, 2, 0},
    {"AMD, whole BAR",
     {4, {{D, 0}, {V | C, 1}, {D | V | C, 0}, {V | C | H, 1}}, 2, {HEAP_D(16), HEAP(16, 0)}}, 0, 1, 3, 2, 0},
    {"AMD, integrated: host memory first",
     {6,
      {{D, 1}, {D, 1}, {V | C, 0}, {D | V | C, 1}, {V | C | H, 0}, {V | C | H, 0}},
      2,
      {HEAP(8, 0), HEAP_D(4)}},
     0, 2, 4, 3, 0},
    {"NVIDIA, 246 MiB BAR",
     {5, {{0, 1}, {D, 0}, {V | C, 1}, {V | C | H, 1}, {D | V | C, 2}}, 3, {HEAP_D(8), HEAP(12, 0), HEAP_D(0.24)}},
     1, 2, 3, 4, 1},
    {"NVIDIA, older: seven types without a flag",
     {11,
      {{0, 1}, {0, 1}, {0, 1}, {0, 1}, {0, 1}, {0, 1}, {0, 1}, {D, 0}, {D, 0}, {V | C, 1}, {V | C | H, 1}},
      2,
      {HEAP_D(6), HEAP(12, 0)}},
     7, 9, 10, 9, 7},
    {"Intel, integrated, one cached type",
     {1, {{D | V | C | H, 0}}, 1, {HEAP_D(12)}}, 0, 0, 0, 0, 0},
    {"Intel, integrated, two types",
     {2, {{D | V | C, 0}, {D | V | C | H, 0}}, 1, {HEAP_D(12)}}, 0, 0, 1, 0, 0},
    {"Intel, integrated, three types",
     {3, {{D, 0}, {D | V | C, 0}, {D | V | C | H, 0}}, 1, {HEAP_D(8)}}, 0, 1, 2, 1, 0},
    {"Intel, discrete",
     {4, {{D, 0}, {D | V | C, 0}, {V | C | H, 1}, {V | C, 1}}, 2, {HEAP_D(8), HEAP(16, 0)}}, 0, 3, 2, 1, 0},
    {"ARM Mali: cached is not coherent, and lazy",
     {3, {{D | V | C, 0}, {D | V | H, 0}, {D | L, 0}}, 1, {HEAP_D(4)}}, 0, 0, 1, 0, 2},
    {"ARM Mali: cached and coherent, lazy and protected",
     {5, {{D | V | C, 0}, {D | V | C | H, 0}, {D | V | H, 0}, {D | L, 0}, {D | P, 0}}, 1, {HEAP_D(4)}},
     0, 0, 1, 0, 3},
    {"Adreno",
     {4, {{D, 0}, {D | V | C, 0}, {D | V | H, 0}, {D | L, 0}}, 1, {HEAP_D(3)}}, 0, 1, 2, 1, 3},
    {"lavapipe", {1, {{D | V | C | H, 0}}, 1, {HEAP_D(4)}}, 0, 0, 0, 0, 0},
};

static uint32_t chosen(uint32_t type_bits, const acre_vk_request *request)
{
    uint32_t type = NO_TYPE;
    acre_status status = acre_vk_find_memory_type(w.vk, type_bits, request, &type);
    if (status != ACRE_OK) assert_int_equal(status, ACRE_NOT_SUPPORTED);
    return type;
}

static uint32_t all_types(const VkPhysicalDeviceMemoryProperties *m) { return (1u << m->memoryTypeCount) - 1; }

static void each_usage_gets_the_right_type_on_every_card(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++) {
        const card *c = &cards[i];
        world_open(&(fake_vk_options){.memory = c->memory, .without = FAKE_VK_NO_COHERENT_AMD}, NULL);
        const uint32_t wanted[ACRE_VK_USAGE_COUNT] = {c->gpu, c->upload, c->readback, c->gpu_mapped, c->lazy};
        for (int usage = 0; usage < ACRE_VK_USAGE_COUNT; usage++) {
            acre_vk_request request = {.usage = (acre_vk_usage)usage};
            uint32_t type = chosen(all_types(&c->memory), &request);
            if (type != wanted[usage])
                fail_msg("%s, usage %d: type %u, not %u", c->name, usage, type, wanted[usage]);
            VkMemoryPropertyFlags flags = 0;
            uint32_t heap = NO_TYPE;
            OK(acre_vk_memory_type_properties(w.vk, type, &flags, &heap));
            assert_int_equal(flags, c->memory.memoryTypes[type].propertyFlags);
            assert_int_equal(heap, c->memory.memoryTypes[type].heapIndex);
            /* And that is where an allocation goes. */
            acre_vk_allocation a;
            VkMemoryRequirements need = needs(64 * KIB, 256, all_types(&c->memory));
            OK(acre_vk_alloc(w.vk, &need, &request, &a));
            assert_int_equal(a.memory_type, type);
            fake_vk_memory_info m;
            assert_true(fake_vk_get_memory(w.gpu, a.memory, &m));
            assert_int_equal(m.type, type);
            OK(acre_vk_free(w.vk, a.handle));
        }
        world_close(0);
    }
}

static void mapped_requires_a_type_that_the_cpu_sees(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++) {
        const card *c = &cards[i];
        world_open(&(fake_vk_options){.memory = c->memory, .without = FAKE_VK_NO_COHERENT_AMD}, NULL);
        for (int usage = 0; usage < ACRE_VK_LAZY; usage++) {
            acre_vk_request request = {.usage = (acre_vk_usage)usage, .flags = ACRE_VK_MAPPED};
            uint32_t type = chosen(all_types(&c->memory), &request);
            assert_true(type < c->memory.memoryTypeCount);
            if (!(c->memory.memoryTypes[type].propertyFlags & V))
                fail_msg("%s, usage %d: type %u", c->name, usage, type);
        }
        world_close(0);
    }
}

static void required_preferred_avoided_and_type_bits_count(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_request request = {.required = V | H};
    uint32_t type = chosen(T_ALL, &request);
    assert_true(type == T_CACHED || type == T_SHADOW);
    request = (acre_vk_request){.usage = ACRE_VK_UPLOAD, .required = D};
    assert_int_equal(chosen(T_ALL, &request), T_BAR);
    request = (acre_vk_request){.usage = ACRE_VK_UPLOAD, .preferred = H};
    assert_int_equal(chosen(T_ALL, &request), T_CACHED);
    request = (acre_vk_request){.usage = ACRE_VK_READBACK, .avoided = C};
    assert_int_equal(chosen(T_ALL, &request), T_SHADOW);
    request = (acre_vk_request){.type_bits = 1u << T_COHERENT | 1u << T_SHADOW, .required = H};
    assert_int_equal(chosen(T_ALL, &request), T_SHADOW);
    assert_int_equal(chosen(1u << T_COHERENT, NULL), T_COHERENT);
    assert_int_equal(chosen(T_ALL, NULL), T_DEVICE);
    request = (acre_vk_request){.required = L | V};
    assert_int_equal(chosen(T_ALL, &request), NO_TYPE);
    request = (acre_vk_request){.type_bits = 1u << T_COHERENT};
    assert_int_equal(chosen(1u << T_DEVICE, &request), NO_TYPE);
    assert_int_equal(chosen(0, NULL), NO_TYPE);
    acre_vk_allocation a;
    VkMemoryRequirements need = needs(1024, 64, 1u << T_DEVICE);
    REFUSED(ACRE_NOT_SUPPORTED, acre_vk_alloc(w.vk, &need, &request, &a));
    request = (acre_vk_request){.usage = ACRE_VK_USAGE_COUNT};
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_alloc(w.vk, &need, &request, &a));
    uint32_t out;
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_find_memory_type(w.vk, T_ALL, NULL, NULL));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_find_memory_type(NULL, T_ALL, NULL, &out));
    VkMemoryPropertyFlags flags;
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_memory_type_properties(w.vk, 6, &flags, &out));
    world_close(0);
}

/* Before Vulkan 1.3 a resource is made and destroyed for the answer. */
static void infos_are_enough_to_find_a_type(void **state)
{
    (void)state;
    const uint32_t versions[] = {VK_API_VERSION_1_0, VK_API_VERSION_1_1, VK_API_VERSION_1_2, VK_API_VERSION_1_3};
    for (size_t i = 0; i < 4; i++) {
        world_open(&(fake_vk_options){.api_version = versions[i], .buffer_type_bits = 1u << T_BAR | 1u << T_COHERENT,
                                      .image_type_bits = 1u << T_BAR},
                   NULL);
        VkBufferCreateInfo buffer = fake_vk_buffer_info(1000, 0);
        VkImageCreateInfo image = fake_vk_image_info(64, 64, 0, 0);
        uint32_t type = NO_TYPE;
        acre_vk_request upload = {.usage = ACRE_VK_UPLOAD};
        OK(acre_vk_find_memory_type_for_buffer_info(w.vk, &buffer, &upload, &type));
        assert_int_equal(type, T_COHERENT);
        OK(acre_vk_find_memory_type_for_image_info(w.vk, &image, &upload, &type));
        assert_int_equal(type, T_BAR);
        image.usage |= VK_IMAGE_USAGE_TRANSIENT_ATTACHMENT_BIT;
        acre_vk_request lazy = {.usage = ACRE_VK_LAZY};
        OK(acre_vk_find_memory_type_for_image_info(w.vk, &image, &lazy, &type));
        assert_int_equal(type, T_LAZY);
        assert_int_equal(fake_vk_live_resources(w.gpu), 0);
        if (versions[i] < VK_API_VERSION_1_3) {
            fake_vk_fail(w.gpu, FAKE_VK_CreateBuffer, 1, VK_ERROR_OUT_OF_HOST_MEMORY, false);
            REFUSED(ACRE_NO_MEMORY, acre_vk_find_memory_type_for_buffer_info(w.vk, &buffer, NULL, &type));
            assert_int_equal(acre_vk_last_result(), VK_ERROR_OUT_OF_HOST_MEMORY);
        } else {
            assert_int_equal(fake_vk_count(w.gpu, FAKE_VK_CreateBuffer), 0);
        }
        world_close(0);
    }
}

static void amd_device_coherent_types_are_for_those_who_enabled_them(void **state)
{
    (void)state;
    const VkPhysicalDeviceMemoryProperties memory = {2, {{D | A, 0}, {D, 0}}, 1, {HEAP_D(1)}};
    world_open(&(fake_vk_options){.memory = memory, .without = FAKE_VK_NO_COHERENT_AMD}, NULL);
    acre_vk_request request = {.required = VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD};
    assert_int_equal(chosen(3, NULL), 1);
    assert_int_equal(chosen(1, NULL), NO_TYPE);
    assert_int_equal(chosen(3, &request), NO_TYPE);
    world_close(0);
    world_open(&(fake_vk_options){.memory = memory},
               &(acre_vk_options){.features = world_features(0) | ACRE_VK_HAS_COHERENT_AMD});
    assert_int_equal(chosen(3, &request), 0);
    assert_int_equal(chosen(3, NULL), 1); /* slower: only for those who ask */
    world_close(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD_TEST(each_usage_gets_the_right_type_on_every_card),
        WORLD_TEST(mapped_requires_a_type_that_the_cpu_sees),
        WORLD_TEST(required_preferred_avoided_and_type_bits_count),
        WORLD_TEST(infos_are_enough_to_find_a_type),
        WORLD_TEST(amd_device_coherent_types_are_for_those_who_enabled_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

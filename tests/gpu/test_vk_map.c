/* test_vk_map: the CPU's side of <acre/vulkan.h> on the fake device: maps, flushes, copies, imports and exports. Memory
 * that is not coherent has two copies there, so a flush that is missing, or too short, shows in the data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "vk_world.h"

static acre_vk_request only(uint32_t type, uint32_t flags)
{
    return (acre_vk_request){.usage = ACRE_VK_UPLOAD, .type_bits = 1u << type, .flags = flags};
}

static bool gpu_sees(const acre_vk_allocation *a, VkDeviceSize offset, uint8_t value, size_t count)
{
    uint64_t claim = fake_vk_claim(w.gpu, a->memory, a->offset, a->size, true);
    bool all = true;
    for (size_t i = 0; i < count && all; i++) {
        uint8_t byte = 0;
        all = fake_vk_gpu_read(w.gpu, claim, offset + i, &byte, 1) && byte == value;
    }
    fake_vk_drop_claim(w.gpu, claim);
    return all;
}

static void gpu_writes(const acre_vk_allocation *a, VkDeviceSize offset, uint8_t value, size_t count)
{
    uint8_t *bytes = malloc(count);
    memset(bytes, value, count);
    uint64_t claim = fake_vk_claim(w.gpu, a->memory, a->offset, a->size, true);
    assert_true(fake_vk_gpu_write(w.gpu, claim, offset, bytes, count));
    fake_vk_drop_claim(w.gpu, claim);
    free(bytes);
}

/* --- maps --------------------------------------------------------------------------------------------------------- */

static void a_mapped_block_is_writable_for_its_life(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_request mapped = only(T_COHERENT, ACRE_VK_MAPPED);
    acre_vk_allocation a = take(1000, &mapped), b = take(1000, &mapped);
    assert_non_null(a.mapped);
    assert_non_null(b.mapped);
    assert_true(a.memory == b.memory);
    assert_int_equal((char *)b.mapped - (char *)a.mapped, (ptrdiff_t)(b.offset - a.offset));
    memset(a.mapped, 1, 1000);
    memset(b.mapped, 2, 1000);
    assert_true(gpu_sees(&a, 0, 1, 1000) && gpu_sees(&b, 0, 2, 1000));
    assert_int_equal(fake_vk_count(w.gpu, FAKE_VK_MapMemory), 1);
    OK(acre_vk_free(w.vk, a.handle));
    assert_true(gpu_sees(&b, 0, 2, 1000));
    memset(b.mapped, 3, 1000);
    assert_true(gpu_sees(&b, 0, 3, 1000));
    acre_vk_request own = only(T_COHERENT, ACRE_VK_MAPPED | ACRE_VK_DEDICATED);
    acre_vk_allocation c = take(1000, &own);
    memset(c.mapped, 4, 1000);
    assert_true(gpu_sees(&c, 0, 4, 1000));
    OK(acre_vk_free(w.vk, b.handle));
    OK(acre_vk_free(w.vk, c.handle));
    world_close(0);
}

static void counted_maps_are_balanced_per_block(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_request request = {.usage = ACRE_VK_UPLOAD}; /* plain: what was freed comes back first */
    acre_vk_allocation a = take(1000, &request), b = take(1000, &request), far = take(1000, NULL);
    assert_null(a.mapped);
    void *p = NULL, *q = NULL;
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_unmap(w.vk, a.handle));
    OK(acre_vk_map(w.vk, a.handle, &p));
    OK(acre_vk_map(w.vk, a.handle, &q));
    assert_ptr_equal(p, q);
    OK(acre_vk_map(w.vk, b.handle, &q));
    assert_int_equal((char *)q - (char *)p, (ptrdiff_t)(b.offset - a.offset));
    acre_vk_block_info info;
    OK(acre_vk_get_info(w.vk, a.handle, &info));
    assert_int_equal(info.map_count, 2);
    OK(acre_vk_unmap(w.vk, a.handle));
    OK(acre_vk_unmap(w.vk, a.handle));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_unmap(w.vk, a.handle));
    memset(q, 9, 1000); /* b is still mapped */
    assert_true(gpu_sees(&b, 0, 9, 1000));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_map(w.vk, far.handle, &p));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_map(w.vk, a.handle, NULL));
    assert_int_equal(fake_vk_count(w.gpu, FAKE_VK_MapMemory), 1);
    /* A free ends all maps of its block; the next block of its place begins with none. */
    OK(acre_vk_free(w.vk, b.handle));
    acre_vk_allocation c = take(1000, &request);
    assert_true(c.memory == b.memory && c.offset == b.offset);
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_unmap(w.vk, c.handle));
    OK(acre_vk_get_info(w.vk, c.handle, &info));
    assert_int_equal(info.map_count, 0);
    acre_vk_request mapped = only(T_COHERENT, ACRE_VK_MAPPED);
    acre_vk_allocation d = take(1000, &mapped);
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_unmap(w.vk, d.handle)); /* that map is not counted */
    OK(acre_vk_map(w.vk, d.handle, &p));
    assert_ptr_equal(p, d.mapped);
    OK(acre_vk_unmap(w.vk, d.handle));
    memset(d.mapped, 7, 1000);
    assert_true(gpu_sees(&d, 0, 7, 1000));
    world_close(4);
}

/* --- flush and invalidate ----------------------------------------------------------------------------------------- */

static void flushed_bytes_reach_the_gpu_and_neighbours_do_not_suffer(void **state)
{
    (void)state;
    const VkDeviceSize atoms[] = {1, 64, 256, 4096};
    for (size_t i = 0; i < 4; i++) {
        world_open(&(fake_vk_options){.non_coherent_atom = atoms[i], .buffer_alignment = 16}, NULL);
        acre_vk_request request = only(T_SHADOW, ACRE_VK_MAPPED);
        enum { COUNT = 50 };
        acre_vk_allocation a[COUNT];
        uint64_t seed = i;
        for (int k = 0; k < COUNT; k++) {
            VkMemoryRequirements need = needs(1 + next_random(&seed) % 9000, 16, T_ALL);
            OK(acre_vk_alloc(w.vk, &need, &request, &a[k]));
            if (a[k].offset % atoms[i] != 0) fail_msg("atom %lu: shared", (unsigned long)atoms[i]);
            memset(a[k].mapped, 0, a[k].size);
            OK(acre_vk_flush(w.vk, a[k].handle, 0, VK_WHOLE_SIZE));
        }
        world_check();
        for (int k = 0; k < COUNT; k++) {
            VkDeviceSize at = next_random(&seed) % a[k].size, bytes = 1 + next_random(&seed) % (a[k].size - at);
            memset((char *)a[k].mapped + at, k + 1, bytes);
            OK(acre_vk_flush(w.vk, a[k].handle, at, bytes));
            assert_true(gpu_sees(&a[k], at, (uint8_t)(k + 1), bytes));
        }
        /* The GPU writes one, the CPU its neighbour; invalidating one must not undo the other's unflushed bytes. */
        for (int k = 0; k < COUNT; k += 2) {
            memset(a[k + 1].mapped, 0x55, a[k + 1].size);
            gpu_writes(&a[k], 0, 0xAA, a[k].size);
            OK(acre_vk_invalidate(w.vk, a[k].handle, 0, VK_WHOLE_SIZE));
            for (VkDeviceSize b = 0; b < a[k].size; b++) assert_int_equal(((uint8_t *)a[k].mapped)[b], 0xAA);
            for (VkDeviceSize b = 0; b < a[k + 1].size; b++) assert_int_equal(((uint8_t *)a[k + 1].mapped)[b], 0x55);
        }
        world_close(COUNT);
    }
}

static void coherent_memory_needs_no_driver_call(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_request request = only(T_COHERENT, ACRE_VK_MAPPED);
    acre_vk_allocation a = take(1000, &request);
    OK(acre_vk_flush(w.vk, a.handle, 0, VK_WHOLE_SIZE));
    OK(acre_vk_invalidate(w.vk, a.handle, 10, 20));
    assert_int_equal(fake_vk_count(w.gpu, FAKE_VK_FlushMappedMemoryRanges), 0);
    assert_int_equal(fake_vk_count(w.gpu, FAKE_VK_InvalidateMappedMemoryRanges), 0);
    world_close(1);
}

static void ranges_outside_of_the_block_are_refused(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_request request = only(T_SHADOW, ACRE_VK_MAPPED), unmapped = only(T_SHADOW, ACRE_VK_DEDICATED);
    acre_vk_allocation a = take(1000, &request), b = take(1000, &unmapped);
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_flush(w.vk, a.handle, a.size + 1, 1));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_flush(w.vk, a.handle, 1, a.size));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_flush(w.vk, a.handle, UINT64_MAX - 1, 4));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_invalidate(w.vk, a.handle, 0, a.size + 1));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_flush(w.vk, b.handle, 0, 64)); /* its page is not mapped */
    OK(acre_vk_flush(w.vk, a.handle, a.size, VK_WHOLE_SIZE));             /* nothing */
    char bytes[8] = {0};
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_copy_to(w.vk, a.handle, a.size - 4, bytes, 8));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_copy_from(w.vk, a.handle, UINT64_MAX - 3, bytes, 8));
    acre_vk_allocation far = take(1000, NULL);
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_copy_to(w.vk, far.handle, 0, bytes, 8));
    world_close(3);
}

static void many_ranges_go_in_one_driver_call(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_request request = only(T_SHADOW, ACRE_VK_MAPPED), coherent = only(T_COHERENT, ACRE_VK_MAPPED);
    enum { COUNT = 20 };
    acre_vk_allocation a[COUNT];
    acre_vk_range ranges[COUNT + 1];
    for (int i = 0; i < COUNT; i++) {
        a[i] = take(3000, i == 5 ? &coherent : &request);
        memset(a[i].mapped, i + 1, 3000);
        ranges[i] = (acre_vk_range){a[i].handle, 100, 2000};
    }
    OK(acre_vk_flush_ranges(w.vk, ranges, COUNT));
    assert_int_equal(fake_vk_count(w.gpu, FAKE_VK_FlushMappedMemoryRanges), 1);
    for (int i = 0; i < COUNT; i++) assert_true(gpu_sees(&a[i], 100, (uint8_t)(i + 1), 2000));
    for (int i = 0; i < COUNT; i++) gpu_writes(&a[i], 100, (uint8_t)(100 + i), 2000);
    OK(acre_vk_invalidate_ranges(w.vk, ranges, COUNT));
    assert_int_equal(fake_vk_count(w.gpu, FAKE_VK_InvalidateMappedMemoryRanges), 1);
    for (int i = 0; i < COUNT; i++) assert_int_equal(((uint8_t *)a[i].mapped)[2099], 100 + i);
    ranges[COUNT] = (acre_vk_range){UINT64_MAX, 0, 1};
    REFUSED(ACRE_FOREIGN_POINTER, acre_vk_flush_ranges(w.vk, ranges, COUNT + 1));
    OK(acre_vk_flush_ranges(w.vk, NULL, 0));
    world_close(COUNT);
}

static void copies_do_all_of_it(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    const uint32_t types[] = {T_COHERENT, T_CACHED, T_BAR, T_SHADOW};
    uint8_t in[5000], out[5000];
    for (size_t i = 0; i < sizeof in; i++) in[i] = (uint8_t)(i * 7);
    for (size_t i = 0; i < 4; i++) {
        acre_vk_request request = only(types[i], 0);
        acre_vk_allocation a = take(6000, &request);
        OK(acre_vk_copy_to(w.vk, a.handle, 333, in, sizeof in));
        uint64_t claim = fake_vk_claim(w.gpu, a.memory, a.offset, a.size, true);
        assert_true(fake_vk_gpu_read(w.gpu, claim, 333, out, sizeof out));
        assert_memory_equal(in, out, sizeof in);
        memset(out, 0, sizeof out);
        assert_true(fake_vk_gpu_write(w.gpu, claim, 20, in, 4000));
        OK(acre_vk_copy_from(w.vk, a.handle, 20, out, 4000));
        assert_memory_equal(in, out, 4000);
        fake_vk_drop_claim(w.gpu, claim);
        acre_vk_block_info info;
        OK(acre_vk_get_info(w.vk, a.handle, &info));
        assert_int_equal(info.map_count, 0);
        OK(acre_vk_copy_to(w.vk, a.handle, a.size, in, 0));
        OK(acre_vk_free(w.vk, a.handle));
    }
    world_close(0);
}

/* --- external memory ---------------------------------------------------------------------------------------------- */

static void an_exported_block_is_imported_by_another_allocator(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkBufferCreateInfo info = fake_vk_buffer_info(100000, 0);
    acre_vk_request request = {.usage = ACRE_VK_UPLOAD, .flags = ACRE_VK_EXPORT | ACRE_VK_MAPPED};
    VkBuffer buffer;
    acre_vk_allocation a;
    OK(acre_vk_create_buffer(w.vk, &info, &request, &buffer, &a));
    assert_true(a.dedicated);
    strcpy(a.mapped, "across");
    int fd = -1;
    OK(acre_vk_export_fd(w.vk, a.handle, &fd));
    assert_true(fd >= 0);
    acre_vk_block_info block;
    OK(acre_vk_get_info(w.vk, a.handle, &block));
    fake_vk_memory_info m;
    assert_true(fake_vk_get_memory(w.gpu, a.memory, &m));
    assert_int_equal(m.exported, VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT);
    assert_int_equal(block.page_bytes, m.size);

    vk_world first = w; /* a second device, as another process would have */
    world_open(NULL, NULL);
    VkExternalMemoryBufferCreateInfo external = {VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO, NULL,
                                                 VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT};
    info.pNext = &external;
    VkBuffer other;
    assert_int_equal(FAKE_VK_FN(w.gpu, vkCreateBuffer)(w.device, &info, NULL, &other), VK_SUCCESS);
    acre_vk_allocation b;
    acre_vk_request import = {.flags = ACRE_VK_MAPPED};
    OK(acre_vk_import_fd(w.vk, fd, block.page_bytes, a.memory_type, &import, other, VK_NULL_HANDLE, &b));
    OK(acre_vk_bind_buffer(w.vk, b.handle, 0, other));
    char text[8] = "";
    assert_true(fake_vk_gpu_read(w.gpu, FAKE_VK_ID(other), 0, text, 7));
    assert_string_equal(text, "across");
    strcpy(b.mapped, "and back");
    assert_string_equal(a.mapped, "and back");
    int none = dup(0);
    REFUSED(ACRE_SYSTEM, acre_vk_import_fd(w.vk, none, MIB, a.memory_type, NULL, VK_NULL_HANDLE, VK_NULL_HANDLE, &b));
    assert_int_equal(acre_vk_last_result(), VK_ERROR_INVALID_EXTERNAL_HANDLE);
    assert_int_equal(close(none), 0); /* it stayed the caller's */
    OK(acre_vk_destroy_buffer(w.vk, other, b.handle));
    assert_int_equal(close(fd), -1); /* the driver has closed it */
    world_close(0);
    w = first;

    acre_vk_allocation plain = take(1000, NULL);
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_export_fd(w.vk, plain.handle, &fd));
    OK(acre_vk_destroy_buffer(w.vk, buffer, a.handle));
    world_close(1);
}

static void pages_of_the_cpu_become_device_memory(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    size_t alignment = acre_vk_host_alignment(w.vk);
    assert_int_equal(alignment, 4096);
    char *pages = aligned_alloc(alignment, 4 * alignment);
    memset(pages, 'x', 4 * alignment);
    acre_vk_allocation a;
    acre_vk_request request = {.name = "shared with the CPU"};
    OK(acre_vk_import_host(w.vk, pages, 4 * alignment, &request, &a));
    assert_ptr_equal(a.mapped, pages);
    assert_int_equal(a.offset, 0);
    VkExternalMemoryBufferCreateInfo external = {VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO, NULL,
                                                 VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT};
    VkBufferCreateInfo info = fake_vk_buffer_info(4 * alignment, 0);
    info.pNext = &external;
    VkBuffer buffer;
    assert_int_equal(FAKE_VK_FN(w.gpu, vkCreateBuffer)(w.device, &info, NULL, &buffer), VK_SUCCESS);
    OK(acre_vk_bind_buffer(w.vk, a.handle, 0, buffer));
    assert_true(fake_vk_gpu_write(w.gpu, FAKE_VK_ID(buffer), 5000, "written by the GPU", 19));
    assert_string_equal(pages + 5000, "written by the GPU");
    world_check();
    OK(acre_vk_destroy_buffer(w.vk, buffer, a.handle));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_import_host(w.vk, pages + 64, alignment, NULL, &a));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_import_host(w.vk, pages, alignment + 1, NULL, &a));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_import_host(w.vk, NULL, alignment, NULL, &a));
    world_close(0);
    free(pages);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD_TEST(a_mapped_block_is_writable_for_its_life),
        WORLD_TEST(counted_maps_are_balanced_per_block),
        WORLD_TEST(flushed_bytes_reach_the_gpu_and_neighbours_do_not_suffer),
        WORLD_TEST(coherent_memory_needs_no_driver_call),
        WORLD_TEST(ranges_outside_of_the_block_are_refused),
        WORLD_TEST(many_ranges_go_in_one_driver_call),
        WORLD_TEST(copies_do_all_of_it),
        WORLD_TEST(an_exported_block_is_imported_by_another_allocator),
        WORLD_TEST(pages_of_the_cpu_become_device_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

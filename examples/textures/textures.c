/* textures: wishes, uploads, evictions; see textures.h. */
#include "textures.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UPLOADS_MAX = 48 /* tiles per frame */, JOBS_MAX = UPLOADS_MAX * LEVEL_SMALL };
#define UPLOAD_BYTES_MAX ((uint64_t)2 << 20) /* per frame: what the ring takes in at ease */
#define TEXTURE_FORMAT VK_FORMAT_R8G8B8A8_SRGB

static acre_vk_point point_of(uint64_t frame) { return (acre_vk_point){.semaphore = gpu.timeline, .value = frame}; }

static void fail(const char *what, acre_status status)
{
    fprintf(stderr, "textures: %s: %s\n", what, acre_status_text(status));
    exit(1);
}

/* --- images ----------------------------------------------------------------------------------------------------- */

static acre_status make_texture(textures *t, uint32_t level, texture *out)
{
    uint32_t edge = scene_edge(level);
    const VkImageCreateInfo info = {.sType = VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
                                    .imageType = VK_IMAGE_TYPE_2D,
                                    .format = TEXTURE_FORMAT,
                                    .extent = {edge, edge, 1},
                                    .mipLevels = SCENE_LEVELS - level,
                                    .arrayLayers = 1,
                                    .samples = VK_SAMPLE_COUNT_1_BIT,
                                    .tiling = VK_IMAGE_TILING_OPTIMAL,
                                    .usage = VK_IMAGE_USAGE_SAMPLED_BIT | VK_IMAGE_USAGE_TRANSFER_SRC_BIT |
                                             VK_IMAGE_USAGE_TRANSFER_DST_BIT};
    const acre_vk_request request = {.usage = ACRE_VK_GPU, .category = ROW_TEXTURES};
    acre_vk_allocation memory;
    VkImage image;
    acre_status status = acre_vk_create_image(t->vk, &info, &request, &image, &memory);
    if (status != ACRE_OK) return status;
    const VkImageViewCreateInfo view = {.sType = VK_STRUCTURE_TYPE_IMAGE_VIEW_CREATE_INFO, .image = image,
                                        .viewType = VK_IMAGE_VIEW_TYPE_2D, .format = TEXTURE_FORMAT,
                                        .subresourceRange = {VK_IMAGE_ASPECT_COLOR_BIT, 0, info.mipLevels, 0, 1}};
    *out = (texture){.image = image, .handle = memory.handle, .bytes = memory.size, .level = level};
    gpu_check(gpu.vkCreateImageView(gpu.device, &view, NULL, &out->view), "vkCreateImageView");
    return ACRE_OK;
}

/* The tile's fine image goes, if it has one; the GPU may use it until this frame is done. False: not now. */
static bool drop_fine(textures *t, uint64_t frame, tile *x)
{
    uint32_t slot = (uint32_t)(frame % FRAMES_IN_FLIGHT);
    if (!x->fine.image) return true;
    if (t->old[slot].count == sizeof t->old[slot].views / sizeof t->old[slot].views[0]) return false;
    if (acre_vk_destroy_image_after(t->vk, x->fine.image, x->fine.handle, point_of(frame)) != ACRE_OK) return false;
    t->old[slot].views[t->old[slot].count++] = x->fine.view;
    x->fine = (texture){.image = VK_NULL_HANDLE};
    for (int s = 0; s < FRAMES_IN_FLIGHT; s++) x->shown[s] = VK_NULL_HANDLE;
    return true;
}

/* The frame that used this slot before is done. */
static void drop_old_views(textures *t, uint64_t frame)
{
    uint32_t slot = (uint32_t)(frame % FRAMES_IN_FLIGHT);
    while (t->old[slot].count > 0) gpu.vkDestroyImageView(gpu.device, t->old[slot].views[--t->old[slot].count], NULL);
}

/* --- uploads: two threads compute texels into pieces of the ring ----------------------------------------------- */

typedef struct job {
    uint32_t tile, level;
    acre_vk_piece piece;
} job;

typedef struct job_list {
    textures *t;
    job *jobs;
    uint32_t count;
    uint32_t next; /* atomic */
} job_list;

static void *work(void *context)
{
    job_list *list = context;
    for (;;) {
        uint32_t i = __atomic_fetch_add(&list->next, 1, __ATOMIC_RELAXED);
        if (i >= list->count) return NULL;
        job *j = &list->jobs[i];
        acre_status status;
        while ((status = acre_vk_ring_alloc(list->t->ring, scene_level_bytes(j->level), 16, &j->piece)) == ACRE_BUSY) {
            status = acre_vk_ring_wait(list->t->ring, ACRE_GPU_FOREVER);
            if (status != ACRE_OK) break;
        }
        if (status != ACRE_OK) fail("a piece of the ring", status);
        scene_texels(j->tile, j->level, j->piece.mapped);
    }
}

static void run_jobs(textures *t, job *jobs, uint32_t count)
{
    job_list list = {t, jobs, count, 0};
    pthread_t other;
    bool two = count > 1 && pthread_create(&other, NULL, work, &list) == 0;
    work(&list);
    if (two) pthread_join(other, NULL);
}

static void record_upload(VkCommandBuffer commands, const job *j, const texture *to)
{
    uint32_t edge = scene_edge(j->level);
    const VkBufferImageCopy region = {.bufferOffset = j->piece.offset,
                                      .imageSubresource = {VK_IMAGE_ASPECT_COLOR_BIT, j->level - to->level, 0, 1},
                                      .imageExtent = {edge, edge, 1}};
    gpu.vkCmdCopyBufferToImage(commands, j->piece.buffer, to->image, VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL, 1, &region);
}

/* Levels that both have, from the one to the other. */
static void record_copy(VkCommandBuffer commands, const texture *from, const texture *to)
{
    uint32_t first = from->level > to->level ? from->level : to->level;
    VkImageCopy regions[SCENE_LEVELS];
    uint32_t count = 0;
    for (uint32_t level = first; level < SCENE_LEVELS; level++)
        regions[count++] = (VkImageCopy){.srcSubresource = {VK_IMAGE_ASPECT_COLOR_BIT, level - from->level, 0, 1},
                                         .dstSubresource = {VK_IMAGE_ASPECT_COLOR_BIT, level - to->level, 0, 1},
                                         .extent = {scene_edge(level), scene_edge(level), 1}};
    gpu_barrier(commands, from->image, VK_IMAGE_ASPECT_COLOR_BIT, 0, SCENE_LEVELS - from->level,
                VK_IMAGE_LAYOUT_SHADER_READ_ONLY_OPTIMAL, VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL);
    gpu.vkCmdCopyImage(commands, from->image, VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL, to->image,
                       VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL, count, regions);
    gpu_barrier(commands, from->image, VK_IMAGE_ASPECT_COLOR_BIT, 0, SCENE_LEVELS - from->level,
                VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL, VK_IMAGE_LAYOUT_SHADER_READ_ONLY_OPTIMAL);
}

static void to_transfer(VkCommandBuffer commands, const texture *x)
{
    gpu_barrier(commands, x->image, VK_IMAGE_ASPECT_COLOR_BIT, 0, SCENE_LEVELS - x->level, VK_IMAGE_LAYOUT_UNDEFINED,
                VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL);
}
static void to_shader(VkCommandBuffer commands, const texture *x)
{
    gpu_barrier(commands, x->image, VK_IMAGE_ASPECT_COLOR_BIT, 0, SCENE_LEVELS - x->level,
                VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL, VK_IMAGE_LAYOUT_SHADER_READ_ONLY_OPTIMAL);
}

/* --- wishes ----------------------------------------------------------------------------------------------------- */

static float gap(float v, float low, float high) { return v < low ? low - v : v > high ? v - high : 0; }

static uint32_t level_of(float level) { return level < 0 ? 0 : level > LEVEL_SMALL ? LEVEL_SMALL : (uint32_t)level; }

static void look(tile *x, uint32_t number, vec3 eye, const float planes[5][4], float pixels_per_unit)
{
    float left = (float)(number % SCENE_TILES), top = (float)(number / SCENE_TILES);
    float dx = gap(eye.x, left, left + 1), dz = gap(eye.z, top, top + 1), dy = gap(eye.y, 0, 0.4f);
    x->distance = sqrtf(dx * dx + dy * dy + dz * dz) + 0.05f;
    x->visible = true;
    for (int i = 0; i < 5; i++) { /* a ball round the tile, against each side of the frustum */
        const float *p = planes[i];
        if (p[0] * (left + 0.5f) + p[1] * 0.25f + p[2] * (top + 0.5f) + p[3] < -0.75f) x->visible = false;
    }
    x->ideal = log2f((float)SCENE_TEXELS * x->distance / pixels_per_unit);
    if (!x->visible) x->ideal += 1 + x->distance; /* it may come into sight again */
    x->wanted = level_of(x->ideal);
    x->weight = (x->visible ? 1 : 0.2f) / x->distance;
}

/* Bytes of all images at this bias. */
static uint64_t bytes_at(const textures *t, float bias)
{
    uint64_t bytes = SCENE_TILE_COUNT * scene_chain_bytes(LEVEL_SMALL);
    for (uint32_t i = 0; i < SCENE_TILE_COUNT; i++) {
        uint32_t level = level_of(t->tiles[i].ideal + bias);
        if (level < LEVEL_SMALL) bytes += scene_chain_bytes(level);
    }
    return bytes;
}

/* The least bias at which 7/8 of the budget are enough: the rest is for what waits for the GPU. */
static void aim(textures *t, textures_report *report)
{
    float low = 0, high = LEVEL_SMALL + 4;
    uint64_t room = t->budget_bytes / 8 * 7;
    if (t->budget_bytes == 0 || bytes_at(t, 0) <= room) high = 0;
    for (int i = 0; i < 12 && high > low; i++) {
        float middle = (low + high) / 2;
        if (bytes_at(t, middle) <= room) high = middle;
        else low = middle;
    }
    report->bias = high;
    for (uint32_t i = 0; i < SCENE_TILE_COUNT; i++) t->tiles[i].target = level_of(t->tiles[i].ideal + high);
}

static uint64_t in_use(textures *t, uint64_t *pending)
{
    acre_gpu_category_stats stats;
    if (acre_vk_category_stats(t->vk, ROW_TEXTURES, &stats) != ACRE_OK) return 0;
    *pending = stats.pending_bytes;
    return stats.live_bytes + stats.pending_bytes;
}

/* The fine image that is finest beyond its target; of equal ones the one that matters least. NULL: none. */
static tile *finest_beyond(textures *t)
{
    tile *worst = NULL;
    float worst_excess = 0;
    for (uint32_t i = 0; i < SCENE_TILE_COUNT; i++) {
        tile *x = &t->tiles[i];
        if (!x->fine.image || x->fine.level >= x->target) continue;
        float excess = (float)(x->target - x->fine.level) + 1 / (1 + x->weight);
        if (excess > worst_excess) {
            worst_excess = excess;
            worst = x;
        }
    }
    return worst;
}

/* The tile's levels from its target on, in an image of their own, copied on the GPU; without memory for that, the small
 * image has to do. False: not now. */
static bool make_coarser(textures *t, uint64_t frame, tile *x, VkCommandBuffer commands)
{
    texture smaller = {.image = VK_NULL_HANDLE};
    if (x->target < LEVEL_SMALL && make_texture(t, x->target, &smaller) == ACRE_OK) {
        to_transfer(commands, &smaller);
        record_copy(commands, &x->fine, &smaller);
        to_shader(commands, &smaller);
    }
    if (!drop_fine(t, frame, x)) {
        fprintf(stderr, "textures: too many images went in one frame\n");
        exit(1);
    }
    x->fine = smaller;
    return true;
}

/* Sends memory on its way back until `bytes` of it are. */
static void make_room(textures *t, uint64_t frame, uint64_t bytes, VkCommandBuffer commands, textures_report *report)
{
    uint64_t pending = 0;
    in_use(t, &pending);
    for (tile *x; pending < bytes && report->coarser < 64 && (x = finest_beyond(t)) != NULL; report->coarser++) {
        pending += x->fine.bytes;
        if (!make_coarser(t, frame, x, commands)) return;
    }
}

/* A finer image for the tile, as fine as acre lets it be. short_bytes: what this frame was refused in all. */
static bool get_finer(textures *t, uint64_t frame, tile *x, texture *got, uint64_t *short_bytes,
                      VkCommandBuffer commands, textures_report *report)
{
    uint32_t now = textures_level(x);
    for (uint32_t level = x->target; level < now; level++) {
        acre_status status = make_texture(t, level, got);
        if (status == ACRE_OK) return true;
        if (status != ACRE_OVER_BUDGET && status != ACRE_NO_MEMORY) fail("an image", status);
        report->refused++;
        if (level == x->target) make_room(t, frame, *short_bytes += scene_chain_bytes(level), commands, report);
    }
    return false;
}

typedef struct wish {
    tile *x;
    float weight;
} wish;

static int heavier(const void *left, const void *right)
{
    const wish *a = left, *b = right;
    return a->weight > b->weight ? -1 : a->weight < b->weight ? 1 : a->x < b->x ? -1 : 1;
}

static uint32_t collect_wishes(textures *t, wish *wishes, textures_report *report)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < SCENE_TILE_COUNT; i++) {
        tile *x = &t->tiles[i];
        uint32_t level = textures_level(x);
        if (x->visible) {
            report->visible++;
            report->at_level[level]++;
            report->lacking += level > x->target;
            report->wanted_bytes += scene_chain_bytes(x->wanted);
        }
        if (level <= x->target) continue;
        float price = sqrtf((float)(scene_chain_bytes(x->target) - scene_chain_bytes(level)));
        wishes[count++] = (wish){x, x->weight * (float)(level - x->target) / price};
    }
    qsort(wishes, count, sizeof *wishes, heavier);
    return count;
}

/* --- the interface ---------------------------------------------------------------------------------------------- */

void textures_stream(textures *t, uint64_t frame, vec3 eye, const float planes[5][4], float pixels_per_unit,
                     VkCommandBuffer commands, textures_report *report)
{
    *report = (textures_report){0};
    drop_old_views(t, frame);
    for (uint32_t i = 0; i < SCENE_TILE_COUNT; i++) look(&t->tiles[i], i, eye, planes, pixels_per_unit);

    aim(t, report);
    /* Room for the next frames' uploads in good time; and a budget that was cut is not met by refusing alone. */
    uint64_t pending = 0, live = in_use(t, &pending) - pending, short_bytes = 0,
             most = t->budget_bytes - UPLOAD_BYTES_MAX;
    if (t->budget_bytes && live > most) make_room(t, frame, live - most, commands, report);

    static wish wishes[SCENE_TILE_COUNT];
    uint32_t count = collect_wishes(t, wishes, report);
    job jobs[JOBS_MAX];
    struct { tile *x; texture got; uint32_t first, end; } got[UPLOADS_MAX];
    uint32_t job_count = 0, got_count = 0;
    for (uint32_t i = 0; i < count && got_count < UPLOADS_MAX && report->uploaded_bytes < UPLOAD_BYTES_MAX; i++) {
        tile *x = wishes[i].x;
        if (report->refused > 16) break; /* full: the next frame tries again */
        if (!get_finer(t, frame, x, &got[got_count].got, &short_bytes, commands, report)) continue;
        got[got_count].x = x;
        got[got_count].first = job_count;
        for (uint32_t level = got[got_count].got.level; level < textures_level(x); level++) {
            jobs[job_count++] = (job){.tile = (uint32_t)(x - t->tiles), .level = level};
            report->uploaded_bytes += scene_level_bytes(level);
        }
        got[got_count++].end = job_count;
    }
    run_jobs(t, jobs, job_count);
    for (uint32_t i = 0; i < got_count; i++) {
        tile *x = got[i].x;
        to_transfer(commands, &got[i].got);
        for (uint32_t j = got[i].first; j < got[i].end; j++) record_upload(commands, &jobs[j], &got[i].got);
        record_copy(commands, x->fine.image ? &x->fine : &x->small, &got[i].got);
        to_shader(commands, &got[i].got);
        if (!drop_fine(t, frame, x)) fail("freeing an image", ACRE_NO_MEMORY);
        x->fine = got[i].got;
        for (int s = 0; s < FRAMES_IN_FLIGHT; s++) x->shown[s] = VK_NULL_HANDLE;
    }
}

VkDescriptorSet textures_set(textures *t, uint64_t frame, uint32_t number)
{
    tile *x = &t->tiles[number];
    uint32_t slot = (uint32_t)(frame % FRAMES_IN_FLIGHT);
    VkImageView view = x->fine.image ? x->fine.view : x->small.view;
    if (x->shown[slot] != view) {
        const VkDescriptorImageInfo image = {gpu.sampler, view, VK_IMAGE_LAYOUT_SHADER_READ_ONLY_OPTIMAL};
        const VkWriteDescriptorSet write = {.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET, .dstSet = x->sets[slot],
                                            .descriptorCount = 1, .pImageInfo = &image,
                                            .descriptorType = VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER};
        gpu.vkUpdateDescriptorSets(gpu.device, 1, &write, 0, NULL);
        x->shown[slot] = view;
    }
    return x->sets[slot];
}

void textures_set_budget(textures *t, uint64_t bytes)
{
    acre_status status = acre_vk_set_category_budget(t->vk, ROW_TEXTURES, bytes);
    if (status != ACRE_OK) fail("the budget", status);
    t->budget_bytes = bytes;
}

void textures_open(textures *t, acre_vk *vk, acre_vk_ring *ring, VkCommandBuffer commands)
{
    memset(t, 0, sizeof *t);
    t->vk = vk;
    t->ring = ring;
    static job jobs[SCENE_TILE_COUNT * (SCENE_LEVELS - LEVEL_SMALL)];
    uint32_t count = 0;
    for (uint32_t i = 0; i < SCENE_TILE_COUNT; i++) {
        acre_status status = make_texture(t, LEVEL_SMALL, &t->tiles[i].small);
        if (status != ACRE_OK) fail("a small image", status);
        VkDescriptorSetLayout layouts[FRAMES_IN_FLIGHT];
        for (int s = 0; s < FRAMES_IN_FLIGHT; s++) layouts[s] = gpu.tile_layout;
        const VkDescriptorSetAllocateInfo sets = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                                                  .descriptorPool = gpu.descriptors,
                                                  .descriptorSetCount = FRAMES_IN_FLIGHT,
                                                  .pSetLayouts = layouts};
        gpu_check(gpu.vkAllocateDescriptorSets(gpu.device, &sets, t->tiles[i].sets), "vkAllocateDescriptorSets");
        for (uint32_t level = LEVEL_SMALL; level < SCENE_LEVELS; level++)
            jobs[count++] = (job){.tile = i, .level = level};
    }
    run_jobs(t, jobs, count);
    for (uint32_t j = 0; j < count; j++) {
        const texture *x = &t->tiles[jobs[j].tile].small;
        if (jobs[j].level == LEVEL_SMALL) to_transfer(commands, x);
        record_upload(commands, &jobs[j], x);
        if (jobs[j].level == SCENE_LEVELS - 1) to_shader(commands, x);
    }
}

void textures_close(textures *t)
{
    for (uint64_t slot = 0; slot < FRAMES_IN_FLIGHT; slot++) drop_old_views(t, slot);
    for (uint32_t i = 0; i < SCENE_TILE_COUNT; i++) {
        texture *both[] = {&t->tiles[i].small, &t->tiles[i].fine};
        for (int k = 0; k < 2; k++) {
            if (!both[k]->image) continue;
            gpu.vkDestroyImageView(gpu.device, both[k]->view, NULL);
            acre_vk_destroy_image(t->vk, both[k]->image, both[k]->handle);
        }
    }
}

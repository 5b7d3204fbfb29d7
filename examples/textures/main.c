/* textures: a flight over 576 textured tiles, 768 MiB in all, through a fixed budget of memory.
 *
 *   textures_flight [--quick] [FOLDER]     writes frame_*.png, flight.png and memory.csv into FOLDER (.)
 *
 * --quick: 24 frames and one picture, for a test. With EXAMPLE_VALIDATION in the environment the Khronos layer looks
 * on, and the program fails if it has something to say.
 *
 * A headless Vulkan 1.3 program that runs on a graphics card or on the CPU (Mesa's lavapipe). Three categories share
 * the device's memory: textures with a budget that holds, targets (colour, depth, read-back), and staging, a ring. In
 * the middle of the flight the budget of the textures is cut to a half, as if another program needed the memory, and
 * later it is given back. What is to be seen is in README.md.
 *
 * One frame: wait for the frame before last; collect what the GPU is done with; decide what to stream; let two threads
 * compute texels into the ring; record uploads and drawing; end the ring's frame; submit. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "picture.h"
#include "textures.h"

enum {
    WIDTH = 1280,
    HEIGHT = 720,
    FRAMES = 200,
    PICTURES = 25,
    QUICK_FRAMES = 24,
    SHEET_COLUMNS = 3,
    SHEET_ROWS = 4,
    SHEET_DIVISOR = 3
};
enum { GRID = 8 /* squares along a tile's edge */ };
#define MIB_F 1048576.0
#define BUDGET_BYTES ((uint64_t)24 << 20)
#define CUT_BYTES ((uint64_t)12 << 20)
#define COLOUR_FORMAT VK_FORMAT_R8G8B8A8_SRGB
#define DEPTH_FORMAT VK_FORMAT_D32_SFLOAT

typedef struct target {
    VkImage image;
    VkImageView view;
    uint64_t handle;
} target;

static struct {
    acre_vk *vk;
    acre_vk_ring *ring;
    textures textures;
    target colour, depth;
    VkBuffer pixels; /* read back */
    acre_vk_allocation pixels_memory;
    VkDescriptorSet frame_sets[FRAMES_IN_FLIGHT];
    uint64_t frames;
    const char *folder;
    FILE *csv;
    picture sheet;
    uint32_t pictures;
} app;

static void check(acre_status status, const char *what)
{
    if (status == ACRE_OK) return;
    acre_gpu_shortage shortage;
    char text[1024];
    fprintf(stderr, "textures: %s: %s\n", what, acre_status_text(status));
    if (app.vk && acre_vk_last_shortage(app.vk, &shortage)) {
        acre_gpu_shortage_text(&shortage, text, sizeof text);
        fputs(text, stderr);
    }
    exit(1);
}

/* --- where the camera is ---------------------------------------------------------------------------------------- */

typedef struct camera {
    vec3 eye;
    vec3 forward;
    gpu_frame_data data;
    float planes[5][4]; /* left, right, bottom, top, near; inwards */
    float pixels_per_unit; /* at distance 1 */
} camera;

static vec3 normal_of(vec3 v)
{
    float length = sqrtf(v.x * v.x + v.y * v.y + v.z * v.z);
    return (vec3){v.x / length, v.y / length, v.z / length};
}
static vec3 cross(vec3 a, vec3 b)
{
    return (vec3){a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
static float dot(vec3 a, vec3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }

/* Column-major; out may be neither of both. */
static void multiply(float *out, const float *a, const float *b)
{
    for (int column = 0; column < 4; column++)
        for (int row = 0; row < 4; row++) {
            float sum = 0;
            for (int k = 0; k < 4; k++) sum += a[k * 4 + row] * b[column * 4 + k];
            out[column * 4 + row] = sum;
        }
}

static camera look_from(float part)
{
    const float near = 0.03f, far = 60, tan_half = tanf(0.5f * 0.90f), aspect = (float)WIDTH / HEIGHT;
    scene_view view = scene_flight(part);
    camera c = {.eye = view.eye, .pixels_per_unit = HEIGHT / (2 * tan_half)};
    vec3 f = normal_of((vec3){view.target.x - view.eye.x, view.target.y - view.eye.y, view.target.z - view.eye.z});
    vec3 r = normal_of(cross(f, (vec3){0, 1, 0})), u = cross(r, f), e = view.eye;
    c.forward = f;

    const float to_view[16] = {r.x, u.x, -f.x, 0, r.y,        u.y,        -f.y,      0,
                               r.z, u.z, -f.z, 0, -dot(r, e), -dot(u, e), dot(f, e), 1};
    const float sx = 1 / (tan_half * aspect), sy = -1 / tan_half, a = far / (near - far), b = near * far / (near - far);
    const float to_clip[16] = {sx, 0, 0, 0, 0, sy, 0, 0, 0, 0, a, -1, 0, 0, b, 0};
    multiply(c.data.view_projection, to_clip, to_view);
    /* The inverses of both are plain: a rotation with its place, and a scale with a swap. */
    const float from_view[16] = {r.x, r.y, r.z, 0, u.x, u.y, u.z, 0, -f.x, -f.y, -f.z, 0, e.x, e.y, e.z, 1};
    const float from_clip[16] = {1 / sx, 0, 0, 0, 0, 1 / sy, 0, 0, 0, 0, 0, 1 / b, 0, 0, -1, a / b};
    multiply(c.data.from_clip, from_view, from_clip);

    vec3 sun = normal_of((vec3){-0.55f, 0.42f, -0.72f});
    memcpy(c.data.eye, (float[]){e.x, e.y, e.z, part * 60}, sizeof c.data.eye);
    memcpy(c.data.sun, (float[]){sun.x, sun.y, sun.z, 0}, sizeof c.data.sun);

    float wide = tan_half * aspect;
    const vec3 sides[5] = {{f.x * wide + r.x, f.y * wide + r.y, f.z * wide + r.z},
                           {f.x * wide - r.x, f.y * wide - r.y, f.z * wide - r.z},
                           {f.x * tan_half + u.x, f.y * tan_half + u.y, f.z * tan_half + u.z},
                           {f.x * tan_half - u.x, f.y * tan_half - u.y, f.z * tan_half - u.z}, f};
    for (int i = 0; i < 5; i++) {
        vec3 n = normal_of(sides[i]);
        memcpy(c.planes[i], (float[]){n.x, n.y, n.z, -dot(n, e)}, sizeof c.planes[i]);
    }
    return c;
}

/* --- memory that lives as long as the program -------------------------------------------------------------------- */

static target make_target(VkFormat format, VkImageUsageFlags usage, VkImageAspectFlags aspect)
{
    const VkImageCreateInfo info = {.sType = VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
                                    .imageType = VK_IMAGE_TYPE_2D,
                                    .format = format,
                                    .extent = {WIDTH, HEIGHT, 1},
                                    .mipLevels = 1,
                                    .arrayLayers = 1,
                                    .samples = VK_SAMPLE_COUNT_1_BIT,
                                    .tiling = VK_IMAGE_TILING_OPTIMAL,
                                    .usage = usage};
    const acre_vk_request request = {.category = ROW_TARGETS};
    acre_vk_allocation memory;
    target t = {.image = VK_NULL_HANDLE};
    check(acre_vk_create_image(app.vk, &info, &request, &t.image, &memory), "a target");
    t.handle = memory.handle;
    const VkImageViewCreateInfo view = {.sType = VK_STRUCTURE_TYPE_IMAGE_VIEW_CREATE_INFO, .image = t.image,
                                        .viewType = VK_IMAGE_VIEW_TYPE_2D, .format = format,
                                        .subresourceRange = {aspect, 0, 1, 0, 1}};
    gpu_check(gpu.vkCreateImageView(gpu.device, &view, NULL, &t.view), "vkCreateImageView");
    return t;
}

static void open_memory(void)
{
    const acre_gpu_category table[ROWS] = {
        [ROW_TEXTURES] = {.name = "textures", .budget_bytes = BUDGET_BYTES, .at_limit = ACRE_GPU_FAIL},
        [ROW_STAGING] = {.name = "staging", .budget_bytes = (uint64_t)16 << 20},
        [ROW_TARGETS] = {.name = "targets"},
    };
    const acre_vk_options options = {.instance = gpu.instance, .physical_device = gpu.physical, .device = gpu.device,
                                     .get_instance_proc_addr = gpu.vkGetInstanceProcAddr,
                                     .get_device_proc_addr = gpu.vkGetDeviceProcAddr, .api_version = VK_API_VERSION_1_3,
                                     .features = ACRE_VK_HAS_TIMELINE, .categories = table, .category_count = ROWS,
                                     .page_bytes_max = (uint64_t)4 << 20};
    check(acre_vk_create(&options, &app.vk), "acre_vk_create");
    const acre_vk_ring_options ring = {.bytes = (uint64_t)2 << 20,
                                       .bytes_max = (uint64_t)16 << 20,
                                       .buffer_usage =
                                           VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_UNIFORM_BUFFER_BIT,
                                       .request = {.category = ROW_STAGING}};
    check(acre_vk_ring_create(app.vk, &ring, &app.ring), "the ring");

    app.colour = make_target(COLOUR_FORMAT, VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT | VK_IMAGE_USAGE_TRANSFER_SRC_BIT,
                             VK_IMAGE_ASPECT_COLOR_BIT);
    app.depth = make_target(DEPTH_FORMAT, VK_IMAGE_USAGE_DEPTH_STENCIL_ATTACHMENT_BIT, VK_IMAGE_ASPECT_DEPTH_BIT);
    const VkBufferCreateInfo pixels = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = WIDTH * HEIGHT * 4,
                                       .usage = VK_BUFFER_USAGE_TRANSFER_DST_BIT};
    const acre_vk_request read_back = {.usage = ACRE_VK_READBACK, .flags = ACRE_VK_MAPPED, .category = ROW_TARGETS};
    check(acre_vk_create_buffer(app.vk, &pixels, &read_back, &app.pixels, &app.pixels_memory), "the read-back buffer");

    for (int i = 0; i < FRAMES_IN_FLIGHT; i++) {
        const VkDescriptorSetAllocateInfo set = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                                                 .descriptorPool = gpu.descriptors, .descriptorSetCount = 1,
                                                 .pSetLayouts = &gpu.frame_layout};
        gpu_check(gpu.vkAllocateDescriptorSets(gpu.device, &set, &app.frame_sets[i]), "vkAllocateDescriptorSets");
    }
}

static void close_memory(void)
{
    gpu_check(gpu.vkDeviceWaitIdle(gpu.device), "vkDeviceWaitIdle");
    textures_close(&app.textures);
    acre_vk_ring_destroy(app.ring);
    target *both[] = {&app.colour, &app.depth};
    for (int i = 0; i < 2; i++) {
        gpu.vkDestroyImageView(gpu.device, both[i]->view, NULL);
        acre_vk_destroy_image(app.vk, both[i]->image, both[i]->handle);
    }
    acre_vk_destroy_buffer(app.vk, app.pixels, app.pixels_memory.handle);
    acre_vk_collect(app.vk);
    uint64_t left = acre_vk_destroy(app.vk);
    if (left) fprintf(stderr, "textures: %llu blocks were not freed\n", (unsigned long long)left);
    if (left) exit(1);
}

/* --- drawing ---------------------------------------------------------------------------------------------------- */

/* Camera and sun, in a piece of the ring. */
static VkDescriptorSet frame_set(uint64_t frame, const camera *c)
{
    acre_vk_piece piece;
    check(acre_vk_ring_alloc(app.ring, sizeof c->data, 256, &piece), "uniforms");
    memcpy(piece.mapped, &c->data, sizeof c->data);
    VkDescriptorSet set = app.frame_sets[frame % FRAMES_IN_FLIGHT];
    const VkDescriptorBufferInfo buffer = {piece.buffer, piece.offset, sizeof c->data};
    const VkWriteDescriptorSet write = {.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                                        .dstSet = set,
                                        .descriptorCount = 1,
                                        .descriptorType = VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER,
                                        .pBufferInfo = &buffer};
    gpu.vkUpdateDescriptorSets(gpu.device, 1, &write, 0, NULL);
    return set;
}

static void draw(uint64_t frame, const camera *c, VkCommandBuffer commands)
{
    VkDescriptorSet set = frame_set(frame, c);
    gpu_barrier(commands, app.colour.image, VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, VK_IMAGE_LAYOUT_UNDEFINED,
                VK_IMAGE_LAYOUT_COLOR_ATTACHMENT_OPTIMAL);
    gpu_barrier(commands, app.depth.image, VK_IMAGE_ASPECT_DEPTH_BIT, 0, 1, VK_IMAGE_LAYOUT_UNDEFINED,
                VK_IMAGE_LAYOUT_DEPTH_ATTACHMENT_OPTIMAL);
    const VkRenderingAttachmentInfo colour = {.sType = VK_STRUCTURE_TYPE_RENDERING_ATTACHMENT_INFO,
                                              .imageView = app.colour.view,
                                              .imageLayout = VK_IMAGE_LAYOUT_COLOR_ATTACHMENT_OPTIMAL,
                                              .loadOp = VK_ATTACHMENT_LOAD_OP_DONT_CARE,
                                              .storeOp = VK_ATTACHMENT_STORE_OP_STORE};
    const VkRenderingAttachmentInfo depth = {.sType = VK_STRUCTURE_TYPE_RENDERING_ATTACHMENT_INFO,
                                             .imageView = app.depth.view,
                                             .imageLayout = VK_IMAGE_LAYOUT_DEPTH_ATTACHMENT_OPTIMAL,
                                             .loadOp = VK_ATTACHMENT_LOAD_OP_CLEAR,
                                             .storeOp = VK_ATTACHMENT_STORE_OP_DONT_CARE,
                                             .clearValue = {.depthStencil = {1, 0}}};
    const VkRenderingInfo rendering = {.sType = VK_STRUCTURE_TYPE_RENDERING_INFO,
                                       .renderArea = {{0, 0}, {WIDTH, HEIGHT}},
                                       .layerCount = 1,
                                       .colorAttachmentCount = 1,
                                       .pColorAttachments = &colour,
                                       .pDepthAttachment = &depth};
    gpu.vkCmdBeginRendering(commands, &rendering);
    const VkViewport viewport = {0, 0, WIDTH, HEIGHT, 0, 1};
    const VkRect2D scissor = {{0, 0}, {WIDTH, HEIGHT}};
    gpu.vkCmdSetViewport(commands, 0, 1, &viewport);
    gpu.vkCmdSetScissor(commands, 0, 1, &scissor);
    gpu.vkCmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_GRAPHICS, gpu.layout, 0, 1, &set, 0, NULL);
    gpu.vkCmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_GRAPHICS, gpu.terrain);
    for (uint32_t i = 0; i < SCENE_TILE_COUNT; i++) {
        if (!app.textures.tiles[i].visible) continue;
        VkDescriptorSet picture_set = textures_set(&app.textures, frame, i);
        gpu.vkCmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_GRAPHICS, gpu.layout, 1, 1, &picture_set, 0, NULL);
        const gpu_tile_data data = {{(float)(i % SCENE_TILES), (float)(i / SCENE_TILES)}, GRID};
        gpu.vkCmdPushConstants(commands, gpu.layout, VK_SHADER_STAGE_VERTEX_BIT, 0, sizeof data, &data);
        gpu.vkCmdDraw(commands, 6 * GRID * GRID, 1, 0, 0);
    }
    gpu.vkCmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_GRAPHICS, gpu.sky);
    gpu.vkCmdDraw(commands, 3, 1, 0, 0);
    gpu.vkCmdEndRendering(commands);
    gpu_barrier(commands, app.colour.image, VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, VK_IMAGE_LAYOUT_COLOR_ATTACHMENT_OPTIMAL,
                VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL);
}

static void read_back(VkCommandBuffer commands)
{
    const VkBufferImageCopy region = {.imageSubresource = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1},
                                      .imageExtent = {WIDTH, HEIGHT, 1}};
    gpu.vkCmdCopyImageToBuffer(commands, app.colour.image, VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL, app.pixels, 1,
                               &region);
    const VkMemoryBarrier2 barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER_2,
                                      .srcStageMask = VK_PIPELINE_STAGE_2_COPY_BIT,
                                      .srcAccessMask = VK_ACCESS_2_TRANSFER_WRITE_BIT,
                                      .dstStageMask = VK_PIPELINE_STAGE_2_HOST_BIT,
                                      .dstAccessMask = VK_ACCESS_2_HOST_READ_BIT};
    const VkDependencyInfo info = {.sType = VK_STRUCTURE_TYPE_DEPENDENCY_INFO, .memoryBarrierCount = 1,
                                   .pMemoryBarriers = &barrier};
    gpu.vkCmdPipelineBarrier2(commands, &info);
}

/* --- what the memory looks like: on the picture, and in the table ------------------------------------------------- */

enum { INK = 0xF4F1E8, PAPER = 0x10151C, LIVE = 0x4FB3A5, PENDING = 0xF2A541, LIMIT = 0xE4572E };
static const uint32_t level_colours[LEVEL_SMALL + 1] = {0xFBE08A, 0xF2B447, 0xC77A4A, 0x8A5A78, 0x4A5670};

static void show_memory(picture *p, const acre_gpu_category_stats *textures_row)
{
    const float x = 28, y = HEIGHT - 104, width = 560, bar = width - 40, scale = bar / (BUDGET_BYTES * 1.08f);
    char text[128];
    picture_box(p, x, y, width, 80, PAPER, 0.66f);
    snprintf(text, sizeof text, "textures %.1f MiB",
             (double)(textures_row->live_bytes + textures_row->pending_bytes) / MIB_F);
    picture_text(p, x + 20, y + 14, 13, INK, text);
    snprintf(text, sizeof text, "budget %.0f MiB", (double)textures_row->budget_bytes / MIB_F);
    picture_text(p, x + width - 20 - picture_text_width(13, text), y + 14, 13, INK, text);
    picture_box(p, x + 20, y + 44, bar, 18, 0x000000, 0.5f);
    float live = (float)textures_row->live_bytes * scale, pending = (float)textures_row->pending_bytes * scale;
    picture_box(p, x + 20, y + 44, live, 18, LIVE, 1);
    picture_box(p, x + 20 + live, y + 44, pending, 18, PENDING, 1);
    float limit = x + 20 + (float)textures_row->budget_bytes * scale;
    picture_box(p, limit, y + 38, 3, 30, LIMIT, 1);
}

static void show_map(picture *p, const camera *c)
{
    const float cell = 7, side = cell * SCENE_TILES, x = WIDTH - 28 - side, y = HEIGHT - 28 - side;
    picture_box(p, x - 10, y - 34, side + 20, side + 44, PAPER, 0.66f);
    picture_text(p, x, y - 22, 10, INK, "levels in memory");
    for (uint32_t i = 0; i < SCENE_TILE_COUNT; i++) {
        const tile *t = &app.textures.tiles[i];
        picture_box(p, x + cell * (float)(i % SCENE_TILES), y + cell * (float)(i / SCENE_TILES), cell - 0.8f,
                    cell - 0.8f, level_colours[textures_level(t)], t->visible ? 1 : 0.62f);
    }
    float ex = x + c->eye.x * cell, ey = y + c->eye.z * cell, length = hypotf(c->forward.x, c->forward.z);
    float fx = c->forward.x / length, fy = c->forward.z / length;
    for (int s = -1; s <= 1; s += 2) {
        float wide = 0.9f * (float)s, dx = fx - fy * wide, dy = fy + fx * wide;
        picture_line(p, ex, ey, ex + dx * 22, ey + dy * 22, 1.6f, INK, 0.9f);
    }
    picture_box(p, ex - 2.5f, ey - 2.5f, 5, 5, LIMIT, 1);
}

static void save_picture(uint64_t frame, const camera *c, const acre_gpu_category_stats *row)
{
    check(acre_vk_invalidate(app.vk, app.pixels_memory.handle, 0, VK_WHOLE_SIZE), "invalidate");
    static uint8_t rgba[WIDTH * HEIGHT * 4];
    memcpy(rgba, app.pixels_memory.mapped, sizeof rgba);
    picture p = {WIDTH, HEIGHT, rgba};
    show_memory(&p, row);
    show_map(&p, c);
    char path[512];
    snprintf(path, sizeof path, "%s/frame_%03llu.png", app.folder, (unsigned long long)frame);
    if (!picture_write(&p, path)) {
        fprintf(stderr, "textures: cannot write %s\n", path);
        exit(1);
    }
    /* Every other picture goes on the sheet. */
    uint32_t number = app.pictures++ / 2;
    if (app.pictures % 2 == 0 && number < SHEET_COLUMNS * SHEET_ROWS)
        picture_inset(&app.sheet, number % SHEET_COLUMNS * (WIDTH / SHEET_DIVISOR + 4),
                      number / SHEET_COLUMNS * (HEIGHT / SHEET_DIVISOR + 4), &p, SHEET_DIVISOR);
}

static void write_row(uint64_t frame, const textures_report *r, double ms)
{
    acre_vk_stats all;
    acre_gpu_category_stats rows[ROWS];
    acre_vk_ring_stats ring;
    check(acre_vk_get_stats(app.vk, &all), "statistics");
    check(acre_vk_ring_get_stats(app.ring, &ring), "statistics");
    for (uint32_t i = 0; i < ROWS; i++) check(acre_vk_category_stats(app.vk, i, &rows[i]), "statistics");
    if (frame == 1) {
        fprintf(app.csv,
                "frame,held,live,pending,holes,empty,driver_allocations,driver_calls,textures_budget,textures_live,"
                "textures_pending,staging,targets,ring_used,wanted,uploaded,visible,lacking,refused,coarser");
        for (int i = 0; i <= LEVEL_SMALL; i++) fprintf(app.csv, ",level%d", i);
        fprintf(app.csv, ",bias,ms\n");
    }
    const uint64_t values[] = {frame,
                               all.total.held_bytes,
                               all.total.live_bytes,
                               all.total.pending_bytes,
                               all.total.hole_bytes,
                               all.total.empty_bytes,
                               all.total.driver_allocations,
                               all.total.driver_calls,
                               rows[ROW_TEXTURES].budget_bytes,
                               rows[ROW_TEXTURES].live_bytes,
                               rows[ROW_TEXTURES].pending_bytes,
                               rows[ROW_STAGING].live_bytes + rows[ROW_STAGING].pending_bytes,
                               rows[ROW_TARGETS].live_bytes,
                               ring.used_bytes,
                               r->wanted_bytes,
                               r->uploaded_bytes,
                               r->visible,
                               r->lacking,
                               r->refused,
                               r->coarser};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        fprintf(app.csv, "%s%llu", i ? "," : "", (unsigned long long)values[i]);
    for (int i = 0; i <= LEVEL_SMALL; i++) fprintf(app.csv, ",%u", r->at_level[i]);
    fprintf(app.csv, ",%.2f,%.1f\n", (double)r->bias, ms);
}

/* --- the flight ------------------------------------------------------------------------------------------------- */

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Half of the budget for a quarter of the way. */
static uint64_t budget_at(uint64_t frame)
{
    return frame > app.frames * 2 / 4 && frame <= app.frames * 3 / 4 ? CUT_BYTES : BUDGET_BYTES;
}

static void fly(uint64_t frame)
{
    double began = now_ms();
    if (frame > FRAMES_IN_FLIGHT) gpu_wait_frame(frame - FRAMES_IN_FLIGHT);
    acre_vk_collect(app.vk);
    VkCommandBuffer commands = gpu_begin(frame);
    if (frame == 1) textures_open(&app.textures, app.vk, app.ring, commands);
    if (app.textures.budget_bytes != budget_at(frame)) textures_set_budget(&app.textures, budget_at(frame));

    camera c = look_from((float)(frame - 1) / (float)app.frames);
    textures_report report;
    textures_stream(&app.textures, frame, c.eye, c.planes, c.pixels_per_unit, commands, &report);
    acre_gpu_category_stats row;
    check(acre_vk_category_stats(app.vk, ROW_TEXTURES, &row), "statistics");
    draw(frame, &c, commands);
    bool keep = frame % (app.frames == FRAMES ? FRAMES / PICTURES : app.frames) == 0;
    if (keep) read_back(commands);
    const acre_vk_point point = {.semaphore = gpu.timeline, .value = frame};
    check(acre_vk_ring_frame_end(app.ring, &point), "the ring");
    gpu_submit(frame);
    if (keep) {
        gpu_wait_frame(frame);
        save_picture(frame, &c, &row);
    }
    write_row(frame, &report, now_ms() - began);
}

static void open_output(void)
{
    char path[512];
    snprintf(path, sizeof path, "%s/memory.csv", app.folder);
    app.csv = fopen(path, "w");
    if (!app.csv) {
        fprintf(stderr, "textures: cannot write %s\n", path);
        exit(1);
    }
    app.sheet.width = SHEET_COLUMNS * (WIDTH / SHEET_DIVISOR + 4) - 4;
    app.sheet.height = SHEET_ROWS * (HEIGHT / SHEET_DIVISOR + 4) - 4;
    app.sheet.rgba = malloc((size_t)app.sheet.width * app.sheet.height * 4);
    if (!app.sheet.rgba) exit(1);
    memset(app.sheet.rgba, 255, (size_t)app.sheet.width * app.sheet.height * 4);
}

int main(int argc, char **argv)
{
    bool quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
    app.folder = argc > 1 + quick ? argv[1 + quick] : ".";
    app.frames = quick ? QUICK_FRAMES : FRAMES;
    if (!gpu_open(COLOUR_FORMAT, DEPTH_FORMAT, SCENE_TILE_COUNT * FRAMES_IN_FLIGHT)) return 77;
    open_memory();
    open_output();
    double began = now_ms();
    for (uint64_t frame = 1; frame <= app.frames; frame++) fly(frame);
    gpu_wait_frame(app.frames);
    double seconds = (now_ms() - began) / 1e3;

    char path[512];
    snprintf(path, sizeof path, "%s/flight.png", app.folder);
    if (!picture_write(&app.sheet, path)) fprintf(stderr, "textures: cannot write %s\n", path);
    fclose(app.csv);
    acre_vk_stats stats;
    acre_gpu_category_stats row;
    check(acre_vk_get_stats(app.vk, &stats), "statistics");
    check(acre_vk_category_stats(app.vk, ROW_TEXTURES, &row), "statistics");
    printf("%llu frames on %s in %.1f s: %.0f MiB of textures through %.0f MiB (peak %.1f), %llu driver calls\n",
           (unsigned long long)app.frames, gpu.name, seconds, (double)scene_chain_bytes(0) * SCENE_TILE_COUNT / MIB_F,
           (double)row.budget_bytes / MIB_F, (double)row.peak_bytes / MIB_F,
           (unsigned long long)stats.total.driver_calls);
    close_memory();
    gpu_close();
    free(app.sheet.rgba);
    bool within = row.peak_bytes <= BUDGET_BYTES;
    if (!within) fprintf(stderr, "textures: the budget did not hold\n");
    if (gpu.complaints) fprintf(stderr, "textures: %llu complaints\n", (unsigned long long)gpu.complaints);
    return within && gpu.complaints == 0 ? 0 : 1;
}

/* textures: which levels of which texture are in memory. This is the part of the example that uses acre.
 *
 * Every tile has a small image with its last levels (32 texels and less) for good, and, while it is worth it, a larger
 * one that begins with a finer level. To get finer or coarser, a tile gets a new image: levels that are there are
 * copied on the GPU, the others are uploaded through the ring, and the old image is freed with the frame's point, so
 * its memory is used again only when the GPU is done.
 *
 * All of it stays within the budget of the category "textures". What all tiles want together is more than that, so
 * every wish is lowered by the same number of levels, just as many as it takes (the bias). What was finer before stays
 * until its memory is needed: then acre refuses a request, and what is finest beyond its wish makes room, a frame or
 * two later, when the GPU is done with it; until then a coarser level will do. */
#ifndef EXAMPLE_TEXTURES_TEXTURES_H
#define EXAMPLE_TEXTURES_TEXTURES_H

#include <acre/vulkan.h>
#include <acre/vulkan_stream.h>

#include "gpu.h"
#include "scene.h"

enum { ROW_TEXTURES, ROW_STAGING, ROW_TARGETS, ROWS };
enum { LEVEL_SMALL = 4 /* of the image that is always there */ };

typedef struct texture {
    VkImage image; /* VK_NULL_HANDLE: none */
    VkImageView view;
    uint64_t handle;
    uint64_t bytes;
    uint32_t level; /* its finest */
} texture;

typedef struct tile {
    texture small, fine;
    float distance;
    bool visible;
    float ideal;     /* the level at which a texel is a pixel; below 0: closer than that */
    uint32_t wanted; /* finest level that the picture could show */
    uint32_t target; /* finest level that it shall have: wanted, and what the bias adds */
    float weight;    /* how much it matters */
    VkDescriptorSet sets[FRAMES_IN_FLIGHT];
    VkImageView shown[FRAMES_IN_FLIGHT]; /* in the sets */
} tile;

/* Of one frame. */
typedef struct textures_report {
    uint64_t wanted_bytes;   /* of all visible tiles at the level that they want */
    uint64_t uploaded_bytes;
    uint32_t visible, lacking; /* lacking: coarser than its target */
    float bias;              /* levels that everybody goes without */
    uint32_t at_level[LEVEL_SMALL + 1]; /* visible tiles by finest level in memory */
    uint32_t refused;        /* requests that acre refused */
    uint32_t coarser;        /* fine images that made room */
} textures_report;

typedef struct textures {
    acre_vk *vk;
    acre_vk_ring *ring;
    uint64_t budget_bytes;
    tile tiles[SCENE_TILE_COUNT];
    struct { VkImageView views[256]; uint32_t count; } old[FRAMES_IN_FLIGHT];
} textures;

/* The small images of all tiles, uploaded in frame 1, whose commands these are. Ends the program if there is no memory.
 */
void textures_open(textures *t, acre_vk *vk, acre_vk_ring *ring, VkCommandBuffer commands);
void textures_close(textures *t);
/* 0 = any. */
void textures_set_budget(textures *t, uint64_t bytes);
/* What this frame wants to see, and as much of it as fits. eye_planes: the frustum, normals inwards. */
void textures_stream(textures *t, uint64_t frame, vec3 eye, const float planes[5][4], float pixels_per_unit,
                     VkCommandBuffer commands, textures_report *report);
/* The set that shows a tile in this frame. */
VkDescriptorSet textures_set(textures *t, uint64_t frame, uint32_t number);
static inline uint32_t textures_level(const tile *t) { return t->fine.image ? t->fine.level : LEVEL_SMALL; }

#endif

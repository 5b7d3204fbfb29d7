/* scene: the country that the camera flies over, computed on demand.
 *
 * SCENE_TILES x SCENE_TILES tiles, one unit wide each, every one with a texture of its own of SCENE_TEXELS^2 texels and
 * a full chain of mip levels. No file is read: scene_texels computes any level of any tile from the tile's place, so
 * the same texture comes out however often it is streamed in. This is the "disk" of the example; it costs some tens of
 * milliseconds for the largest level, which is why two threads do it.
 *
 * Pure functions, no state: any thread, any time. */
#ifndef EXAMPLE_TEXTURES_SCENE_H
#define EXAMPLE_TEXTURES_SCENE_H

#include <stdint.h>

enum {
    SCENE_TILES = 24,
    SCENE_TILE_COUNT = SCENE_TILES * SCENE_TILES,
    SCENE_TEXELS = 512, /* along an edge of level 0 */
    SCENE_LEVELS = 10,  /* 512 … 1 */
};

typedef struct vec3 { float x, y, z; } vec3;

/* Where the camera is and what it looks at, `part` of the way (0 … 1) along its flight. */
typedef struct scene_view {
    vec3 eye, target;
} scene_view;

scene_view scene_flight(float part);
/* Height of the ground; terrain.vert computes the same. */
float scene_height(float x, float z);

/* Texels along an edge, and bytes, of one level. */
static inline uint32_t scene_edge(uint32_t level) { return (uint32_t)SCENE_TEXELS >> level; }
static inline uint64_t scene_level_bytes(uint32_t level) { return (uint64_t)scene_edge(level) * scene_edge(level) * 4; }
/* Bytes of a level and all smaller ones. */
static inline uint64_t scene_chain_bytes(uint32_t level)
{
    uint64_t bytes = 0;
    for (; level < SCENE_LEVELS; level++) bytes += scene_level_bytes(level);
    return bytes;
}

/* Computes one level of one tile's texture: scene_level_bytes(level) of sRGB with alpha 255, row by row. */
void scene_texels(uint32_t tile, uint32_t level, uint8_t *rgba);

#endif

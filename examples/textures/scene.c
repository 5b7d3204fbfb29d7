/* scene: fields, woods, a river, a road and villages, each a function of its place; see scene.h.
 *
 * A texel's colour is computed from the place alone. Fine patterns (rows of lavender, trees of an orchard) fade into
 * their mean where a texel is wider than they are, so that small levels look as if they had been filtered. */
#include "scene.h"

#include <math.h>
#include <stdbool.h>

typedef struct rgb { float r, g, b; } rgb;

/* --- numbers ---------------------------------------------------------------------------------------------------- */

static uint32_t hash(int32_t x, int32_t z, uint32_t seed)
{
    uint32_t h = (uint32_t)x * 0x9E3779B1u ^ (uint32_t)z * 0x85EBCA77u ^ seed * 0xC2B2AE3Du;
    h = (h ^ h >> 15) * 0x2C1B3C6Du;
    h = (h ^ h >> 12) * 0x297A2D39u;
    return h ^ h >> 15;
}

static float random01(int32_t x, int32_t z, uint32_t seed) { return (float)(hash(x, z, seed) >> 8) * 0x1p-24f; }

static float clamp01(float v) { return v < 0 ? 0 : v > 1 ? 1 : v; }
static float mix(float a, float b, float t) { return a + (b - a) * t; }
static rgb mix_rgb(rgb a, rgb b, float t) { return (rgb){mix(a.r, b.r, t), mix(a.g, b.g, t), mix(a.b, b.b, t)}; }
static rgb shade(rgb c, float f) { return (rgb){c.r * f, c.g * f, c.b * f}; }
static float ramp(float from, float to, float v)
{
    float t = clamp01((v - from) / (to - from));
    return t * t * (3 - 2 * t);
}

static int32_t floor_int(float v)
{
    int32_t i = (int32_t)v;
    return (float)i > v ? i - 1 : i;
}

/* Smooth noise, 0 … 1, cells of width 1. */
static float noise(float x, float z, uint32_t seed)
{
    int32_t cx = floor_int(x), cz = floor_int(z);
    float fx = x - (float)cx, fz = z - (float)cz;
    fx = fx * fx * (3 - 2 * fx);
    fz = fz * fz * (3 - 2 * fz);
    float near = mix(random01(cx, cz, seed), random01(cx + 1, cz, seed), fx);
    float far = mix(random01(cx, cz + 1, seed), random01(cx + 1, cz + 1, seed), fx);
    return mix(near, far, fz);
}

/* 1: a pattern of this period is seen at this footprint; 0: it has faded into its mean. */
static float seen(float period, float footprint) { return 1 - ramp(0.3f, 0.7f, footprint / period); }

/* Rows, 0 … 1, mean 1/2. */
static float rows(float across, float period, float footprint)
{
    float fade = seen(period, footprint);
    return fade <= 0 ? 0.5f : 0.5f + 0.5f * fade * sinf(across * (6.2831853f / period));
}

/* --- the land --------------------------------------------------------------------------------------------------- */

static float river_at(float x) { return 12 + 3.2f * sinf(x * 0.5f) + 1.3f * sinf(x * 1.1f + 1); }
static float road_at(float z) { return 10.5f + 2.6f * sinf(z * 0.42f + 2) + 0.7f * sinf(z * 1.3f); }

float scene_height(float x, float z)
{
    float hills =
        0.5f + 0.25f * sinf(x * 0.73f + 1.3f * sinf(z * 0.31f)) + 0.25f * sinf(z * 0.87f + 1.1f * sinf(x * 0.41f));
    float away = fabsf(z - river_at(x));
    return 0.85f * hills * ramp(0.15f, 3.2f, away);
}

scene_view scene_flight(float part)
{
    const float turn = 6.2831853f;
    scene_view view;
    for (int ahead = 0; ahead < 2; ahead++) {
        float t = 0.7f * part + (ahead ? 0.045f : 0);
        vec3 at = {12 + 8.2f * sinf(turn * (t + 0.07f)), 0, 12 + 7.4f * sinf(turn * (t * 2 + 0.19f)) * 0.62f +
                                                                3.2f * cosf(turn * t)};
        /* low over the fields, high over the middle of the way, low again */
        float above = 0.30f + 0.80f * (0.5f - 0.5f * cosf(turn * t * 2));
        at.y = 0.55f * scene_height(at.x, at.z) + 0.18f + above;
        if (ahead) view.target = (vec3){at.x, at.y - 0.80f, at.z};
        else view.eye = at;
    }
    return view;
}

/* --- what grows on a parcel ------------------------------------------------------------------------------------- */

typedef struct place {
    float x, z;      /* in tiles, across the whole scene */
    float across;    /* the direction in which rows follow each other */
    float along;
    float footprint; /* width of a texel */
    uint32_t id;     /* of the parcel */
} place;

static rgb wheat(const place *p)
{
    rgb c = mix_rgb((rgb){214, 172, 84}, (rgb){234, 204, 124}, noise(p->x * 7, p->z * 7, 11));
    float tracks = seen(0.011f, p->footprint) * ramp(0.80f, 0.95f, rows(p->across, 0.11f, p->footprint));
    c = shade(c, 0.90f + 0.2f * rows(p->across, 0.011f, p->footprint));
    return shade(c, 1 - 0.18f * tracks);
}

static rgb ploughed(const place *p)
{
    rgb c = mix_rgb((rgb){104, 72, 50}, (rgb){150, 112, 80}, noise(p->x * 9, p->z * 9, 12));
    return shade(c, 0.80f + 0.4f * rows(p->across + 0.002f * noise(p->x * 40, p->z * 40, 3), 0.016f, p->footprint));
}

static rgb meadow(const place *p)
{
    rgb c = mix_rgb((rgb){92, 136, 54}, (rgb){142, 172, 78}, noise(p->x * 11, p->z * 11, 13));
    float blades = noise(p->x * 160, p->z * 160, 14) - 0.5f;
    c = shade(c, 1 + 0.35f * blades * seen(0.008f, p->footprint));
    float density = noise(p->x * 5, p->z * 5, 15);
    if (p->footprint < 0.006f && density > 0.5f) { /* flowers */
        int32_t cx = floor_int(p->x * 150), cz = floor_int(p->z * 150);
        if (random01(cx, cz, 16) < (density - 0.5f) * 0.7f) {
            float dx = p->x * 150 - (float)cx - 0.5f, dz = p->z * 150 - (float)cz - 0.5f;
            rgb flower = random01(cx, cz, 17) < 0.6f ? (rgb){250, 246, 226} : (rgb){222, 64, 48};
            c = mix_rgb(c, flower, 1 - ramp(0.25f, 0.5f, sqrtf(dx * dx + dz * dz)));
        }
    }
    return c;
}

static rgb lavender(const place *p)
{
    float row = ramp(0.25f, 0.75f, rows(p->across, 0.028f, p->footprint));
    rgb bloom = mix_rgb((rgb){112, 84, 152}, (rgb){154, 124, 188}, noise(p->x * 60, p->z * 60, 18));
    rgb soil = {156, 142, 104};
    return mix_rgb(soil, shade(bloom, 0.92f + 0.16f * noise(p->x * 8, p->z * 8, 19)), row);
}

static rgb rape(const place *p)
{
    rgb c = mix_rgb((rgb){224, 200, 40}, (rgb){242, 226, 92}, noise(p->x * 10, p->z * 10, 20));
    float tracks = ramp(0.86f, 0.98f, rows(p->across, 0.13f, p->footprint));
    return shade(c, (0.95f + 0.1f * rows(p->across, 0.012f, p->footprint)) * (1 - 0.3f * tracks));
}

static rgb vines(const place *p)
{
    float row = ramp(0.35f, 0.65f, rows(p->across, 0.020f, p->footprint));
    float leaf = noise(p->x * 120, p->z * 120, 21);
    return mix_rgb((rgb){168, 138, 98}, shade((rgb){82, 124, 50}, 0.8f + 0.45f * leaf), row);
}

/* Round crowns with their shadow: on a grid in an orchard, jittered in a wood. */
static rgb crowns(const place *p, rgb ground, rgb crown, float period, float radius, float jitter)
{
    float fade = seen(period, p->footprint);
    float gx = (jitter > 0 ? p->x : p->across) / period, gz = (jitter > 0 ? p->z : p->along) / period;
    rgb mean = mix_rgb(ground, shade(crown, 0.82f), jitter > 0 ? 0.85f : 0.42f);
    if (fade <= 0) return mean;
    int32_t cx = floor_int(gx - 0.5f), cz = floor_int(gz - 0.5f); /* the four cells around */
    float nearest = 9, in_shadow = 9, tint = 0, sunny = 0;
    for (int32_t dz = 0; dz <= 1; dz++)
        for (int32_t dx = 0; dx <= 1; dx++) {
            uint32_t h = hash(cx + dx, cz + dz, 22);
            float jx = ((float)(h & 1023) * 0x1p-10f - 0.5f) * jitter,
                  jz = ((float)(h >> 10 & 1023) * 0x1p-10f - 0.5f) * jitter;
            float ax = gx - (float)(cx + dx) - 0.5f - jx, az = gz - (float)(cz + dz) - 0.5f - jz;
            float d = ax * ax + az * az, s = (ax - 0.22f) * (ax - 0.22f) + (az - 0.16f) * (az - 0.16f);
            if (d < nearest) {
                nearest = d;
                tint = (float)(h >> 20 & 1023) * 0x1p-10f;
                sunny = -(ax + 0.7f * az);
            }
            if (s < in_shadow) in_shadow = s;
        }
    float is_crown = 1 - ramp(radius * 0.82f, radius * 1.1f, sqrtf(nearest));
    rgb below = shade(ground, 1 - 0.5f * (1 - ramp(radius * 0.8f, radius * 1.2f, sqrtf(in_shadow))));
    rgb leaves = shade(crown, 0.72f + 0.4f * tint + 0.55f * sunny);
    return mix_rgb(mean, mix_rgb(below, leaves, is_crown), fade);
}

static rgb orchard(const place *p)
{
    return crowns(p, meadow(p), (rgb){62, 104, 44}, 0.062f, 0.36f, 0);
}

static rgb wood(const place *p)
{
    rgb c = crowns(p, (rgb){36, 54, 30}, (rgb){62, 96, 50}, 0.029f, 0.58f, 0.7f);
    return shade(c, 0.85f + 0.3f * noise(p->x * 4, p->z * 4, 25));
}

static rgb crop(const place *p, float wooded)
{
    if (wooded > 0.62f) return wood(p);
    switch (hash((int32_t)p->id, 0, 31) % 11) {
    case 0: case 1: return wheat(p);
    case 2: return ploughed(p);
    case 3: return lavender(p);
    case 4: return orchard(p);
    case 5: return rape(p);
    case 6: return vines(p);
    case 7: return wheat(p);
    default: return meadow(p);
    }
}

/* A tile is two to four parcels with hedges between; its outer edge is a hedge or a path. */
static rgb fields(float x, float z, float footprint, float road)
{
    int32_t tx = floor_int(x), tz = floor_int(z);
    float fx = x - (float)tx, fz = z - (float)tz;
    float cut_x = 0.34f + 0.32f * random01(tx, tz, 41), cut_z = 0.34f + 0.32f * random01(tx, tz, 42);
    bool right = fx > cut_x;
    if (random01(tx, tz, 43) < 0.45f) cut_z = right ? 2 : cut_z; /* the right half is one parcel */
    bool upper = fz > cut_z;
    uint32_t id = hash(tx * 4 + right * 2 + upper, tz, 44);

    float angle = (float)(id & 255) * (3.1415927f / 255), s = sinf(angle), c = cosf(angle);
    place p = {x, z, (x * c + z * s), (z * c - x * s), footprint, id};
    float wooded = noise(x * 0.45f, z * 0.45f, 45) * 0.8f + noise(x * 1.7f, z * 1.7f, 46) * 0.2f;
    wooded -= 0.4f * (1 - ramp(0.3f, 0.7f, fabsf(x - road))); /* clearings along the road */
    rgb colour = crop(&p, wooded);
    colour = shade(colour, 0.90f + 0.2f * random01((int32_t)id, 1, 47));

    float edge = fminf(fminf(fx, 1 - fx), fminf(fz, 1 - fz)), inner = fminf(fabsf(fx - cut_x), fabsf(fz - cut_z));
    if (fminf(edge, inner) > 0.020f + footprint) return colour;
    float wobble = 0.006f * (noise(x * 30, z * 30, 48) - 0.3f);
    float hedge = 1 - ramp(0.004f, 0.011f + footprint, fminf(edge - 0.004f, inner) + wobble);
    rgb leaves = shade((rgb){50, 80, 36}, 0.75f + 0.6f * noise(x * 90, z * 90, 49));
    if (edge < inner && random01(tx + (fx > 0.5f), tz, 50) < 0.3f) leaves = (rgb){196, 176, 136};
    return mix_rgb(colour, leaves, hedge * clamp01(0.016f / footprint));
}

/* Red roofs beside the road, where a village is. */
static bool house(float x, float z, float footprint, rgb *colour)
{
    const float cell = 0.085f;
    int32_t cx = floor_int(x / cell), cz = floor_int(z / cell);
    float mx = ((float)cx + 0.5f) * cell, mz = ((float)cz + 0.5f) * cell;
    float away = fabsf(mx - road_at(mz));
    if (away < 0.075f || away > 0.42f || noise(mz * 0.8f, 3, 61) < 0.52f) return false;
    if (fabsf(mz - river_at(mx)) < 0.42f || random01(cx, cz, 62) > 0.75f - away) return false;
    bool turned = random01(cx, cz, 63) < 0.5f;
    float dx = x - mx, dz = z - mz, width = 0.017f + 0.008f * random01(cx, cz, 64), length = width * 1.45f;
    float u = turned ? dz : dx, v = turned ? dx : dz;
    if (fabsf(u) < width && fabsf(v) < length) {
        rgb roof = mix_rgb((rgb){178, 74, 50}, (rgb){206, 120, 84}, random01(cx, cz, 65));
        *colour = shade(roof, (u < 0 ? 1.12f : 0.78f) * (0.94f + 0.12f * rows(v, 0.005f, footprint)));
        return true;
    }
    if (fabsf(u - 0.010f) < width && fabsf(v - 0.008f) < length) { /* its shadow */
        *colour = shade(*colour, 0.55f);
        return true;
    }
    return false;
}

/* river, road: river_at(x) and road_at(z), which do not change along a column or a row. */
static rgb land(float x, float z, float footprint, float river, float road_x)
{
    rgb colour = fields(x, z, footprint, road_x);
    float bank = fabsf(z - river), width = bank < 0.5f ? 0.20f + 0.06f * sinf(x * 2.1f) : 0;
    if (bank < 0.5f) bank += 0.02f * (noise(x * 12, z * 12, 71) - 0.5f);
    if (bank < width + 0.14f) {
        rgb reeds = shade((rgb){96, 124, 62}, 0.8f + 0.4f * noise(x * 70, z * 70, 72));
        colour = mix_rgb(reeds, colour, ramp(width + 0.06f, width + 0.13f, bank));
        colour = mix_rgb((rgb){214, 200, 160}, colour, ramp(width, width + 0.045f, bank));
        float ripple = noise(x * 14 + 6 * noise(x * 5, z * 5, 73), z * 46, 74);
        rgb water = mix_rgb((rgb){38, 92, 122}, (rgb){96, 156, 162}, ramp(0.1f, width, bank) * 0.8f);
        colour = mix_rgb(shade(water, 0.92f + 0.16f * ripple), colour, ramp(width - 0.02f, width, bank));
    }
    float off = x - road_x, side = fabsf(off);
    if (side < 0.55f && house(x, z, footprint, &colour)) return colour;
    if (side < 0.06f) {
        rgb road = shade((rgb){126, 122, 118}, 0.95f + 0.1f * noise(x * 200, z * 200, 75));
        float dash = rows(z, 0.07f, footprint) > 0.5f && side < 0.0025f + footprint * 0.4f ? seen(0.02f, footprint) : 0;
        road = mix_rgb(road, (rgb){240, 236, 220}, dash);
        colour = mix_rgb(road, mix_rgb((rgb){178, 166, 130}, colour, ramp(0.034f, 0.058f, side)),
                         ramp(0.026f, 0.031f + footprint, side));
    }
    return colour;
}

/* --- texels ----------------------------------------------------------------------------------------------------- */

static uint8_t to_byte(float v) { return v <= 0 ? 0 : v >= 255 ? 255 : (uint8_t)(v + 0.5f); }

void scene_texels(uint32_t tile, uint32_t level, uint8_t *rgba)
{
    uint32_t edge = scene_edge(level), samples = edge > 128 ? 1 : edge > 64 ? 2 : 3;
    float left = (float)(tile % SCENE_TILES), top = (float)(tile / SCENE_TILES);
    float step = 1 / (float)(edge * samples), river[SCENE_TEXELS];
    for (uint32_t i = 0; i < edge * samples; i++) river[i] = river_at(left + step * ((float)i + 0.5f));
    for (uint32_t row = 0; row < edge; row++)
        for (uint32_t column = 0; column < edge; column++) {
            rgb sum = {0, 0, 0};
            for (uint32_t s = 0; s < samples * samples; s++) {
                uint32_t i = column * samples + s % samples;
                float x = left + step * ((float)i + 0.5f);
                float z = top + step * ((float)(row * samples + s / samples) + 0.5f);
                rgb c = land(x, z, step, river[i], road_at(z));
                sum = (rgb){sum.r + c.r, sum.g + c.g, sum.b + c.b};
            }
            float share = 1 / (float)(samples * samples);
            *rgba++ = to_byte(sum.r * share);
            *rgba++ = to_byte(sum.g * share);
            *rgba++ = to_byte(sum.b * share);
            *rgba++ = 255;
        }
}

/* categories: a game that tells acre once what it allocates, and then plays thirty seconds of itself.
 *
 * The table below is all that the memory system of this game is: entities and strings on the system's memory, audio on
 * memory that belongs to the audio device, uniform buffers and textures as offsets into GPU memory that no CPU ever
 * touches. Textures are streamed through a budget: when it is full, the texture not seen for longest makes room.
 *
 *   cc categories.c $(pkg-config --cflags --libs acre) && ./a.out */
#include <acre/acre.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KB *(uint64_t)1024
#define MB *(uint64_t)1048576

enum { FPS = 60, FRAMES = 30 * FPS, ENTITIES = 4096, TEXTURES = 512, VOICES = 12, DRAWS = 200, FRAMES_IN_FLIGHT = 2 };

/* --- the table -------------------------------------------------------------------------------------------------- */

enum { ROW_ENTITIES, ROW_STRINGS, ROW_AUDIO, ROW_UNIFORMS, ROW_TEXTURES, ROWS };

static bool drop_oldest_texture(void *context, acre_categories *categories, uint32_t row, size_t bytes);

static acre_categories *make_categories(acre_direct *audio_memory)
{
    const acre_category table[ROWS] = {
        [ROW_ENTITIES] = {.name = "entities", .size_min = 64, .size_max = 1 KB, .alignment = 16, .count = ENTITIES,
                          .allocations_per_second = 20 * FPS, .budget_bytes = 8 MB},
        [ROW_STRINGS] = {.name = "strings", .size_max = 256, .count = ENTITIES, .allocations_per_second = 20 * FPS},
        [ROW_AUDIO] = {.name = "audio streams", .provider = acre_direct_provider(audio_memory), .size_min = 64 KB,
                       .size_max = 1 MB, .alignment = 4 KB, .count = VOICES, .allocations_per_second = 2},
        [ROW_UNIFORMS] = {.name = "uniform buffers", .offsets_only = true, .capacity_bytes = 4 MB, .size_min = 64,
                          .size_max = 64 KB, .alignment = 256, .count = 4096, .count_is_max = true},
        [ROW_TEXTURES] = {.name = "textures", .offsets_only = true, .capacity_bytes = 256 MB, .size_min = 64 KB,
                          .size_max = 32 MB, .alignment = 64 KB, .extra_alignment = 4 MB /* MSAA targets */,
                          .count = 100, .budget_bytes = 192 MB, .on_over_budget = drop_oldest_texture},
    };
    acre_categories *categories;
    acre_category_error error;
    if (acre_categories_create(table, ROWS, &categories, &error) == ACRE_OK) return categories;
    fprintf(stderr, "categories: %s\n", error.text); /* says the row, the field and what is wrong with it */
    exit(1);
}

/* What a slip of the pen looks like. */
static void show_a_mistake(void)
{
    const acre_category wrong = {.name = "meshes", .size_max = 1 MB, .alignment = 48};
    acre_categories *none;
    acre_category_error error;
    if (acre_categories_create(&wrong, 1, &none, &error) != ACRE_OK) printf("a wrong table:  %s\n\n", error.text);
}

/* --- the game --------------------------------------------------------------------------------------------------- */

static uint32_t dice_state = 1;
static uint32_t dice(uint32_t sides)
{
    dice_state = dice_state * 1664525 + 1013904223;
    return (dice_state >> 8) % sides;
}

typedef struct entity { char *name; uint32_t health; } entity;
typedef struct texture { acre_suballoc_block memory; int seen; } texture; /* handle 0: not in memory */

static entity *entities[ENTITIES];
static texture textures[TEXTURES];
static void *voices[VOICES];
static uint64_t uniforms[FRAMES_IN_FLIGHT][DRAWS]; /* handles, given back when the GPU is done with the frame */
static int streamed, dropped;

static bool drop_oldest_texture(void *context, acre_categories *categories, uint32_t row, size_t bytes)
{
    (void)context;
    for (size_t freed = 0; freed < bytes; dropped++) {
        texture *oldest = NULL;
        for (texture *t = textures; t < textures + TEXTURES; t++)
            if (t->memory.handle && (!oldest || t->seen < oldest->seen)) oldest = t;
        if (!oldest || acre_category_free_range(categories, row, oldest->memory.handle) != ACRE_OK) return freed != 0;
        freed += oldest->memory.size;
        oldest->memory.handle = 0;
    }
    return true; /* try again */
}

static void spawn(acre_categories *c, entity **slot)
{
    entity *e = *slot = acre_category_alloc(c, ROW_ENTITIES, 64 + dice(960), 0, NULL);
    if (!e) return;
    e->health = 100;
    e->name = acre_category_alloc(c, ROW_STRINGS, 24, 0, NULL);
    if (e->name) snprintf(e->name, 24, "goblin %u", dice(1000));
}

static void kill(acre_categories *c, entity **slot)
{
    acre_category_free(c, ROW_STRINGS, (*slot)->name);
    acre_category_free(c, ROW_ENTITIES, *slot);
    *slot = NULL;
}

static void look_at(acre_categories *c, texture *t, int frame)
{
    t->seen = frame;
    if (t->memory.handle) return;
    uint64_t size = 64 KB << dice(8); /* a mip chain of 64 KiB … 8 MiB */
    if (acre_category_alloc_range(c, ROW_TEXTURES, size, 0, &t->memory) == ACRE_OK) streamed++;
    else t->memory.handle = 0; /* next frame, perhaps */
}

static void play_frame(acre_categories *c, int frame)
{
    for (int i = 0; i < 20; i++) {
        entity **slot = &entities[dice(ENTITIES)];
        if (*slot) kill(c, slot);
        else spawn(c, slot);
    }

    uint64_t *draws = uniforms[frame % FRAMES_IN_FLIGHT];
    for (int i = 0; i < DRAWS; i++) {
        acre_suballoc_block constants = {.handle = 0};
        if (draws[i]) acre_category_free_range(c, ROW_UNIFORMS, draws[i]); /* of two frames ago */
        acre_category_alloc_range(c, ROW_UNIFORMS, 64 + dice(1024), 0, &constants);
        draws[i] = constants.handle;
    }

    uint32_t here = (uint32_t)(frame / 4); /* the camera moves on */
    for (uint32_t i = 0; i < 8; i++) look_at(c, &textures[(here + dice(60)) % TEXTURES], frame);

    if (frame % (FPS / 2) == 0) {
        void **voice = &voices[dice(VOICES)];
        acre_category_free(c, ROW_AUDIO, *voice);
        *voice = acre_category_alloc(c, ROW_AUDIO, 64 KB + dice(512) * 1024, 0, NULL);
        if (*voice) memset(*voice, 0, 64 KB);
    }
}

int main(void)
{
    acre_direct *audio_memory;
    if (acre_direct_create("audio", 16 MB, &audio_memory) != ACRE_OK) return 1;
    show_a_mistake();
    acre_categories *c = make_categories(audio_memory);

    for (int frame = 0; frame < FRAMES; frame++) play_frame(c, frame);

    char report[2048];
    acre_categories_report(c, report, sizeof report);
    printf("after %d frames:\n%s\n%d textures streamed in, %d dropped for want of budget\n", FRAMES, report, streamed,
           dropped);
    acre_categories_destroy(c); /* the level is over: everything at once, whatever is still alive */
    return acre_direct_destroy(audio_memory) == ACRE_OK ? 0 : 1;
}

/* picture: pixels that the CPU draws on after the GPU is done, and PNG files.
 *
 * 32-bit RGBA, rows from top to bottom. Text is drawn with strokes, so it is smooth at any size and needs no font file;
 * capitals, digits and some signs. Coordinates are pixels, fractions allowed; what lies outside is cut off. */
#ifndef EXAMPLE_TEXTURES_PICTURE_H
#define EXAMPLE_TEXTURES_PICTURE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct picture {
    uint32_t width, height;
    uint8_t *rgba;
} picture;

/* Colours are 0xRRGGBB; opacity 0 … 1. */
void picture_box(picture *p, float x, float y, float width, float height, uint32_t colour, float opacity);
void picture_line(picture *p, float x0, float y0, float x1, float y1, float thickness, uint32_t colour, float opacity);
/* Height of a capital; returns the width of the text. */
float picture_text(picture *p, float x, float y, float height, uint32_t colour, const char *text);
float picture_text_width(float height, const char *text);
/* A smaller copy of `from`, 1/divisor in each direction, with its corner at x, y. */
void picture_inset(picture *p, uint32_t x, uint32_t y, const picture *from, uint32_t divisor);
/* False: the file could not be written. */
bool picture_write(const picture *p, const char *path);

#endif

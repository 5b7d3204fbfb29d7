/* picture: boxes, lines, letters made of lines, and libpng; see picture.h. */
#include "picture.h"

#include <ctype.h>
#include <math.h>
#include <png.h>
#include <stdio.h>

static void blend(picture *p, int32_t x, int32_t y, uint32_t colour, float opacity)
{
    if (x < 0 || y < 0 || x >= (int32_t)p->width || y >= (int32_t)p->height || opacity <= 0) return;
    if (opacity > 1) opacity = 1;
    uint8_t *at = p->rgba + ((size_t)y * p->width + (size_t)x) * 4;
    for (int c = 0; c < 3; c++) {
        float new = (float)(colour >> (16 - 8 * c) & 255);
        at[c] = (uint8_t)((float)at[c] + (new - (float)at[c]) * opacity + 0.5f);
    }
}

static float overlap(float from, float to, int32_t pixel)
{
    float low = from > (float)pixel ? from : (float)pixel, high = to < (float)(pixel + 1) ? to : (float)(pixel + 1);
    return high > low ? high - low : 0;
}

void picture_box(picture *p, float x, float y, float width, float height, uint32_t colour, float opacity)
{
    for (int32_t py = (int32_t)floorf(y); (float)py < y + height; py++)
        for (int32_t px = (int32_t)floorf(x); (float)px < x + width; px++)
            blend(p, px, py, colour, opacity * overlap(x, x + width, px) * overlap(y, y + height, py));
}

static float distance_to_line(float x, float y, float x0, float y0, float x1, float y1)
{
    float dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy;
    float t = length > 0 ? ((x - x0) * dx + (y - y0) * dy) / length : 0;
    t = t < 0 ? 0 : t > 1 ? 1 : t;
    return hypotf(x - x0 - t * dx, y - y0 - t * dy);
}

void picture_line(picture *p, float x0, float y0, float x1, float y1, float thickness, uint32_t colour, float opacity)
{
    float half = thickness / 2;
    int32_t left = (int32_t)floorf(fminf(x0, x1) - half - 1), right = (int32_t)ceilf(fmaxf(x0, x1) + half + 1);
    int32_t top = (int32_t)floorf(fminf(y0, y1) - half - 1), bottom = (int32_t)ceilf(fmaxf(y0, y1) + half + 1);
    for (int32_t y = top; y <= bottom; y++)
        for (int32_t x = left; x <= right; x++) {
            float away = distance_to_line((float)x + 0.5f, (float)y + 0.5f, x0, y0, x1, y1);
            blend(p, x, y, colour, opacity * fminf(1, half - away + 0.5f));
        }
}

/* --- letters ---------------------------------------------------------------------------------------------------- */

/* Lines through points of a grid, five wide and seven high: "xy" each, a blank lifts the pen. */
static const char *strokes_of(char c)
{
    static const char *const letters[] = {"0602204246 0444",
                                          "06003041423303 3344453606",
                                          "4130100105163645",
                                          "00204244260600",
                                          "40000646 0333",
                                          "400006 0333",
                                          "41301001051636454323",
                                          "0006 4046 0343",
                                          "1030 2026 1636",
                                          "4045361605",
                                          "0006 400346",
                                          "000646",
                                          "0600234046",
                                          "06004640",
                                          "103041453616050110",
                                          "06003041423303",
                                          "103041453616050110 3446",
                                          "06003041423303 2346",
                                          "413010010213334445361605",
                                          "0040 2026",
                                          "000516364540",
                                          "002640",
                                          "0016233640",
                                          "0046 4006",
                                          "002340 2326",
                                          "00400646"};
    static const char *const digits[] = {
        "103041453616050110", "112026 1636", "011030414206 0646", "011030414233 1333 334445361605", "36300444",
        "400002324345360605", "413010010516364544331304", "004016", "103041423313020110 13040516364544 4433",
        "051636454130100102133342"};
    if (c >= 'A' && c <= 'Z') return letters[c - 'A'];
    if (c >= '0' && c <= '9') return digits[c - '0'];
    switch (c) {
    case '.': return "1616";
    case ',': return "1617";
    case ':': return "2222 2525";
    case '/': return "0640";
    case '%': return "0640 1111 3535";
    case '-': return "1333";
    case '+': return "0343 2125";
    case '=': return "0242 0444";
    case '(': return "30121436";
    case ')': return "10323416";
    default: return "";
    }
}

static float advance_of(char c, float unit) { return (c == '.' || c == ',' ? 3.2f : c == ' ' ? 3.6f : 5.8f) * unit; }

float picture_text_width(float height, const char *text)
{
    float width = 0;
    for (; *text; text++) width += advance_of(*text, height / 6);
    return width;
}

float picture_text(picture *p, float x, float y, float height, uint32_t colour, const char *text)
{
    float unit = height / 6, start = x;
    for (; *text; text++) {
        const char *s = strokes_of((char)toupper((unsigned char)*text));
        for (; s[0] && s[1]; s += s[2] == ' ' ? 3 : 2) {
            float x0 = x + (float)(s[0] - '0') * unit, y0 = y + (float)(s[1] - '0') * unit;
            bool more = s[2] && s[2] != ' ';
            float x1 = more ? x + (float)(s[2] - '0') * unit : x0, y1 = more ? y + (float)(s[3] - '0') * unit : y0;
            picture_line(p, x0, y0, x1, y1, unit * 1.15f, colour, 0.95f);
        }
        x += advance_of(*text, unit);
    }
    return x - start;
}

/* --- whole pictures --------------------------------------------------------------------------------------------- */

void picture_inset(picture *p, uint32_t x, uint32_t y, const picture *from, uint32_t divisor)
{
    for (uint32_t row = 0; row < from->height / divisor && y + row < p->height; row++)
        for (uint32_t column = 0; column < from->width / divisor && x + column < p->width; column++) {
            uint32_t sum[3] = {0, 0, 0};
            for (uint32_t i = 0; i < divisor * divisor; i++) {
                const uint8_t *s = from->rgba + (((size_t)row * divisor + i / divisor) * from->width +
                                                 (size_t)column * divisor + i % divisor) * 4;
                for (int c = 0; c < 3; c++) sum[c] += s[c];
            }
            uint8_t *d = p->rgba + (((size_t)y + row) * p->width + x + column) * 4;
            for (int c = 0; c < 3; c++) d[c] = (uint8_t)(sum[c] / (divisor * divisor));
            d[3] = 255;
        }
}

static bool write_rows(png_structp png, png_infop info, FILE *file, const picture *p)
{
    png_bytep row = NULL;
    if (setjmp(png_jmpbuf(png))) {
        png_free(png, row);
        return false;
    }
    png_init_io(png, file);
    png_set_compression_level(png, 4);
    png_set_IHDR(png, info, p->width, p->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    png_set_filler(png, 0, PNG_FILLER_AFTER);
    for (uint32_t y = 0; y < p->height; y++) png_write_row(png, p->rgba + (size_t)y * p->width * 4);
    png_write_end(png, NULL);
    return true;
}

bool picture_write(const picture *p, const char *path)
{
    FILE *file = fopen(path, "wb");
    if (!file) return false;
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    bool written = info && write_rows(png, info, file, p);
    png_destroy_write_struct(&png, &info);
    return fclose(file) == 0 && written;
}

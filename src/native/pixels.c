/* Pixels of four bytes as the lines of a PNG: a byte that says how the line is filtered (not at all), and red, green, blue.
 *
 * daemon/png.py has the same in Python, which is what there is without a compiler. */
#include "pixels.h"

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <tmmintrin.h>
#endif

enum { PIXEL = 4, COLOURS = 3 };
enum { ADLER = 65521, MOST_SUMMED = 5552 }; /* so many bytes of 255 can be summed up in 32 bits (RFC 1950) */

struct picture {
    Py_buffer pixels, lines;
    Py_ssize_t stride, width, height, lines_per_block, gap;
    unsigned order[COLOURS]; /* where red, green and blue are in a pixel */
};

struct sum {
    uint32_t low, high; /* of the bytes, and of that after each of them */
};

static void convert_plainly(uint8_t *restrict to, const uint8_t *restrict from, Py_ssize_t count, const unsigned *order)
{
    const unsigned red = order[0], green = order[1], blue = order[2];
    for (; count > 0; count--, from += PIXEL, to += COLOURS) {
        to[0] = from[red];
        to[1] = from[green];
        to[2] = from[blue];
    }
}

#if defined(__x86_64__)
/* Four pixels at a time; the four bytes that are stored behind them are overwritten by what comes next. */
__attribute__((target("ssse3"))) static Py_ssize_t convert_fours(uint8_t *restrict to, const uint8_t *restrict from,
                                                                 Py_ssize_t count, const unsigned *order)
{
    uint8_t places[16];
    memset(places, 0x80, sizeof(places)); /* these become zero */
    for (unsigned at = 0; at < 4 * COLOURS; at++)
        places[at] = (uint8_t)(PIXEL * (at / COLOURS) + order[at % COLOURS]);
    const __m128i shuffle = _mm_loadu_si128((const __m128i *)places);
    Py_ssize_t done = 0;
    for (; done + 6 <= count; done += 4) {
        const __m128i pixels = _mm_loadu_si128((const __m128i *)(from + PIXEL * done));
        _mm_storeu_si128((__m128i *)(to + COLOURS * done), _mm_shuffle_epi8(pixels, shuffle));
    }
    return done;
}

static Py_ssize_t convert_quickly(uint8_t *to, const uint8_t *from, Py_ssize_t count, const unsigned *order)
{
    return __builtin_cpu_supports("ssse3") ? convert_fours(to, from, count, order) : 0;
}

static uint32_t total(__m128i lanes)
{
    uint32_t each[4];
    _mm_storeu_si128((__m128i *)each, lanes);
    return each[0] + each[1] + each[2] + each[3];
}

/* Sixteen bytes at a time, up to MOST_SUMMED: the first of them is summed up sixteen times in what the last is once. */
__attribute__((target("ssse3"))) static Py_ssize_t sum_sixteens(struct sum *sum, const uint8_t *from, Py_ssize_t count)
{
    const __m128i weights = _mm_setr_epi8(16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1);
    const __m128i zero = _mm_setzero_si128(), ones = _mm_set1_epi16(1);
    __m128i low = zero, before = zero, weighted = zero;
    Py_ssize_t done = 0;
    for (; done + 16 <= count; done += 16) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)(from + done));
        before = _mm_add_epi32(before, low);
        low = _mm_add_epi32(low, _mm_sad_epu8(bytes, zero));
        weighted = _mm_add_epi32(weighted, _mm_madd_epi16(_mm_maddubs_epi16(bytes, weights), ones));
    }
    sum->high += sum->low * (uint32_t)done + 16 * total(before) + total(weighted);
    sum->low += total(low);
    return done;
}

static Py_ssize_t sum_quickly(struct sum *sum, const uint8_t *from, Py_ssize_t count)
{
    return __builtin_cpu_supports("ssse3") ? sum_sixteens(sum, from, count) : 0;
}
#else
static Py_ssize_t sum_quickly(struct sum *sum, const uint8_t *from, Py_ssize_t count)
{
    (void)sum, (void)from, (void)count;
    return 0;
}

static Py_ssize_t convert_quickly(uint8_t *to, const uint8_t *from, Py_ssize_t count, const unsigned *order)
{
    (void)to, (void)from, (void)count, (void)order;
    return 0;
}
#endif

static void add_to(struct sum *sum, const uint8_t *from, Py_ssize_t count)
{
    while (count > 0) {
        const Py_ssize_t now = count < MOST_SUMMED ? count : MOST_SUMMED;
        for (Py_ssize_t at = sum_quickly(sum, from, now); at < now; at++) {
            sum->low += from[at];
            sum->high += sum->low;
        }
        sum->low %= ADLER;
        sum->high %= ADLER;
        from += now;
        count -= now;
    }
}

/* Returns Adler's sum over the lines. Each is summed up while it is in the cache. */
static uint32_t convert(const struct picture *picture)
{
    struct sum sum = {1, 0};
    const uint8_t *from = picture->pixels.buf;
    uint8_t *to = picture->lines.buf;
    for (Py_ssize_t y = 0; y < picture->height; y++, from += picture->stride) {
        if (y % picture->lines_per_block == 0)
            to += picture->gap;
        *to++ = 0;
        const Py_ssize_t done = convert_quickly(to, from, picture->width, picture->order);
        convert_plainly(to + COLOURS * done, from + PIXEL * done, picture->width - done, picture->order);
        to += COLOURS * picture->width;
        add_to(&sum, to - COLOURS * picture->width - 1, COLOURS * picture->width + 1);
    }
    return sum.high << 16 | sum.low;
}

/* Whether the sizes are such that nothing outside of the two buffers is touched. */
static bool fits(const struct picture *picture)
{
    const Py_ssize_t most = 1 << 15, longest = 1 << 30;
    const Py_ssize_t width = picture->width, height = picture->height, stride = picture->stride;
    if (width < 1 || width > most || height < 1 || height > most || stride < PIXEL * width || stride > longest ||
        picture->lines_per_block < 1 || picture->gap < 0 || picture->gap > most)
        return false;
    for (unsigned colour = 0; colour < COLOURS; colour++)
        if (picture->order[colour] >= PIXEL)
            return false;
    const Py_ssize_t blocks = (height - 1) / picture->lines_per_block + 1;
    return stride * (height - 1) + PIXEL * width <= picture->pixels.len &&
           blocks * picture->gap + height * (1 + COLOURS * width) <= picture->lines.len;
}

PyObject *scan_lines(PyObject *self, PyObject *arguments)
{
    (void)self;
    struct picture picture;
    if (!PyArg_ParseTuple(arguments, "y*nnn(III)w*nn", &picture.pixels, &picture.stride, &picture.width, &picture.height,
                          &picture.order[0], &picture.order[1], &picture.order[2], &picture.lines,
                          &picture.lines_per_block, &picture.gap))
        return NULL;
    const bool sound = fits(&picture);
    uint32_t adler = 0;
    if (sound) {
        Py_BEGIN_ALLOW_THREADS
        adler = convert(&picture);
        Py_END_ALLOW_THREADS
    } else
        PyErr_SetString(PyExc_ValueError, "expected a picture that lies in its pixels, and room for its lines");
    PyBuffer_Release(&picture.pixels);
    PyBuffer_Release(&picture.lines);
    return sound ? PyLong_FromUnsignedLong(adler) : NULL;
}

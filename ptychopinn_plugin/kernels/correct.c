/* A sweep's step on one pattern after another, from the object to its correction, in cache.

   Arrays at the boundary are those of kernels.c, but what lies in the far field (amplitude, good,
   ramps) is transposed: (kx, ky). Sides are powers of two from 16 to LARGEST_SIDE.

   Inside, a field lies in blocks of LANES columns, a row of a block being LANES real parts and then
   LANES imaginary ones. A transform runs along the columns of a block, all lanes at once, in place
   and in the first cache. Between those along y and those along x the field is transposed, once on
   the way there and once on the way back; so the far field stays transposed.

   Of a side beyond 64 the rows of a block fall into `parts` of 64 rows. On the way there
   (`analyse`) the first pass goes across the parts and leaves each a transform of its own: row m
   of part k gets frequency parts m + k. The way back (`synthesise`) takes the rows as they lie so
   and ends with the pass across. It too transforms forward, but what `respond` has conjugated.
*/

#include "kernels.h"
#include "team.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CLONED static __attribute__((noinline)) CLONES

/* Loops over lanes become vector instructions; their stores overlap nothing. */
#ifdef __clang__
#define LANEWISE _Pragma("clang loop vectorize(assume_safety)")
#else
#define LANEWISE _Pragma("GCC ivdep")
#endif

enum { LANES = 16, ROW = 2 * LANES, PART = 64, LARGEST_SIDE = 8 * PART };

typedef struct {
    float re, im;
} Number;

INLINE Number plus(Number a, Number b) { return (Number){a.re + b.re, a.im + b.im}; }
INLINE Number minus(Number a, Number b) { return (Number){a.re - b.re, a.im - b.im}; }
INLINE Number turned(Number a) { return (Number){a.im, -a.re}; } /* by -i */

INLINE void transform2(Number *a, Number *b) {
    Number sum = plus(*a, *b), difference = minus(*a, *b);
    *a = sum, *b = difference;
}

INLINE void transform4(Number *a, Number *b, Number *c, Number *d) {
    Number e = plus(*a, *c), f = minus(*a, *c), g = plus(*b, *d), h = turned(minus(*b, *d));
    *a = plus(e, g), *b = plus(f, h), *c = minus(e, g), *d = minus(f, h);
}

INLINE void transform8(Number *x) {
    const float r = 0.70710678118654752f;
    Number a = plus(x[0], x[4]), b = plus(x[1], x[5]), c = plus(x[2], x[6]), d = plus(x[3], x[7]);
    Number e = minus(x[0], x[4]), f = minus(x[1], x[5]);
    Number g = turned(minus(x[2], x[6])), h = turned(minus(x[3], x[7]));
    f = (Number){r * (f.re + f.im), r * (f.im - f.re)};
    h = (Number){r * (h.re + h.im), r * (h.im - h.re)};
    transform4(&a, &b, &c, &d);
    transform4(&e, &f, &g, &h);
    x[0] = a, x[1] = e, x[2] = b, x[3] = f, x[4] = c, x[5] = g, x[6] = d, x[7] = h;
}

enum { BEFORE = 1, AFTER = 2 }; /* where a butterfly has its factors */

/* `radix` rows, `far` floats from one another, to as many, `near` from one another. */
INLINE void butterfly(const float *in, int64_t far, float *out, int64_t near,
                      const Number *restrict factors, int64_t radix, int when) {
    LANEWISE
    for (int64_t l = 0; l < LANES; l++) {
        Number x[8];
#pragma GCC unroll 8
        for (int64_t j = 0; j < radix; j++) {
            float re = in[j * far + l], im = in[j * far + LANES + l];
            const int turn = when == BEFORE && j > 0;
            float c = turn ? factors[j - 1].re : 1, s = turn ? factors[j - 1].im : 0;
            x[j].re = turn ? re * c - im * s : re;
            x[j].im = turn ? re * s + im * c : im;
        }
        if (radix == 8)
            transform8(x);
        else if (radix == 4)
            transform4(x, x + 1, x + 2, x + 3);
        else
            transform2(x, x + 1);
#pragma GCC unroll 8
        for (int64_t j = 0; j < radix; j++) {
            const int turn = when == AFTER && j > 0;
            float c = turn ? factors[j - 1].re : 1, s = turn ? factors[j - 1].im : 0;
            out[j * near + l] = turn ? x[j].re * c - x[j].im * s : x[j].re;
            out[j * near + LANES + l] = turn ? x[j].re * s + x[j].im * c : x[j].im;
        }
    }
}

/* A transform of 8 `rest` rows, sorted, by way of `spare`. */
INLINE void part_transform(float *part, float *spare, const Number *factors, int64_t rest) {
    for (int64_t p = 0; p < rest; p++)
        butterfly(part + p * ROW, rest * ROW, spare + 8 * p * ROW, ROW, factors + 7 * p, 8, AFTER);
    for (int64_t q = 0; q < 8; q++)
        butterfly(spare + q * ROW, 8 * ROW, part + q * ROW, 8 * ROW, NULL, rest, 0);
}

INLINE void across(float *block, const Number *factors, int64_t parts, int when) {
    for (int64_t p = 0; p < PART; p++)
        butterfly(block + p * ROW, PART * ROW, block + p * ROW, PART * ROW,
                  factors + (parts - 1) * p, parts, when);
}

INLINE void each_part(float *block, float *spare, const Number *factors, int64_t parts) {
    for (int64_t k = 0; k < parts; k++)
        part_transform(block + k * PART * ROW, spare, factors, 8);
}

INLINE void all_across(float *block, const Number *factors, int64_t side, int when) {
    if (side == 2 * PART)
        across(block, factors + 7 * 8, 2, when);
    else if (side == 4 * PART)
        across(block, factors + 7 * 8, 4, when);
    else if (side == 8 * PART)
        across(block, factors + 7 * 8, 8, when);
}

INLINE void all_parts(float *block, float *spare, const Number *factors, int64_t side) {
    if (side == 16)
        part_transform(block, spare, factors, 2);
    else if (side == 32)
        part_transform(block, spare, factors, 4);
    else
        each_part(block, spare, factors, side / PART);
}

CLONED void analyse(float *block, float *spare, const Number *factors, int64_t side) {
    all_across(block, factors, side, AFTER);
    all_parts(block, spare, factors, side);
}

CLONED void synthesise(float *block, float *spare, const Number *factors, int64_t side) {
    all_parts(block, spare, factors, side);
    all_across(block, factors, side, BEFORE);
}

static float *put_factors(float *to, int64_t length, int64_t radix) {
    for (int64_t p = 0; p < length / radix; p++)
        for (int64_t j = 1; j < radix; j++) {
            const double angle = -2 * M_PI * (double)(p * j) / (double)length;
            *to++ = (float)cos(angle);
            *to++ = (float)sin(angle);
        }
    return to;
}

/* The factors of a side, at most 2 `side` floats. */
EXPORT void prepare(int64_t side, float *factors) {
    factors = put_factors(factors, side < PART ? side : PART, 8);
    if (side > PART)
        put_factors(factors, side, side / PART);
}

INLINE int64_t parts_of(int64_t side) { return side > PART ? side / PART : 1; }

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
#ifdef __clang__
#define MIXED __builtin_shufflevector
#else
typedef int Places __attribute__((vector_size(16)));
#define MIXED(a, b, ...) __builtin_shuffle(a, b, (Places){__VA_ARGS__})
#endif

/* Where the row of a frequency lies. */
INLINE int64_t row(int64_t i, int64_t parts) { return (i % parts * PART + i / parts) * ROW; }

typedef struct {
    int64_t at[4]; /* floats to each of four rows */
} Rows;

INLINE Rows rows_of(int64_t parts) {
    return (Rows){{row(0, parts), row(1, parts), row(2, parts), row(3, parts)}};
}

INLINE void transpose4(const float *from, Rows f, float *to, Rows t) {
    Four a = *(const Four *)(from + f.at[0]), b = *(const Four *)(from + f.at[1]);
    Four c = *(const Four *)(from + f.at[2]), d = *(const Four *)(from + f.at[3]);
    Four e = MIXED(a, b, 0, 4, 1, 5), g = MIXED(a, b, 2, 6, 3, 7);
    Four h = MIXED(c, d, 0, 4, 1, 5), i = MIXED(c, d, 2, 6, 3, 7);
    *(Four *)(to + t.at[0]) = MIXED(e, h, 0, 1, 4, 5);
    *(Four *)(to + t.at[1]) = MIXED(e, h, 2, 3, 6, 7);
    *(Four *)(to + t.at[2]) = MIXED(g, i, 0, 1, 4, 5);
    *(Four *)(to + t.at[3]) = MIXED(g, i, 2, 3, 6, 7);
}

/* Pictures (batch, side, side), each turned about its diagonal. */
EXPORT void turn(const float *from, float *to, int64_t batch, int64_t side) {
    const Rows rows = {{0, side, 2 * side, 3 * side}};
    for (int64_t b = 0; b < batch; b++, from += side * side, to += side * side)
        for (int64_t i = 0; i < side; i += 4)
            for (int64_t j = 0; j < side; j += 4)
                transpose4(from + i * side + j, rows, to + j * side + i, rows);
}

/* LANES rows and lanes. */
INLINE void transpose(const float *from, int64_t from_parts, float *to, int64_t to_parts) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < LANES; i += 4)
#pragma GCC unroll 4
        for (int64_t j = 0; j < LANES; j += 4) {
            const float *in = from + row(i, from_parts) + j;
            float *out = to + row(j, to_parts) + i;
            transpose4(in, rows_of(from_parts), out, rows_of(to_parts));
            transpose4(in + LANES, rows_of(from_parts), out + LANES, rows_of(to_parts));
        }
}

/* One row more, so that blocks do not take turns in the same few lines of a cache. */
INLINE int64_t block_floats(int64_t side) { return (side + 1) * ROW; }
INLINE int64_t field_floats(int64_t side) { return side / LANES * block_floats(side); }

/* The block that begins at `column` to the other field. */
INLINE void all_spread(const float *block, float *field, int64_t column, int64_t side,
                       int64_t parts) {
    for (int64_t i = 0; i < side; i += LANES, field += block_floats(side))
        transpose(block + i / parts * ROW, parts, field + column * ROW, 1);
}

INLINE void all_gather(const float *field, float *block, int64_t column, int64_t side,
                       int64_t parts) {
    for (int64_t i = 0; i < side; i += LANES, field += block_floats(side))
        transpose(field + column * ROW, 1, block + i / parts * ROW, parts);
}

CLONED void spread(const float *block, float *field, int64_t column, int64_t side) {
    switch (parts_of(side)) {
    case 1: all_spread(block, field, column, side, 1); break;
    case 2: all_spread(block, field, column, side, 2); break;
    case 4: all_spread(block, field, column, side, 4); break;
    case 8: all_spread(block, field, column, side, 8); break;
    }
}

CLONED void gather(const float *field, float *block, int64_t column, int64_t side) {
    switch (parts_of(side)) {
    case 1: all_gather(field, block, column, side, 1); break;
    case 2: all_gather(field, block, column, side, 2); break;
    case 4: all_gather(field, block, column, side, 4); break;
    case 8: all_gather(field, block, column, side, 8); break;
    }
}

INLINE void split_times(const float *restrict a, const float *restrict b, float *restrict re,
                        float *restrict im, int64_t count) {
    for (int64_t j = 0; j < count; j++) {
        float x = a[2 * j], y = a[2 * j + 1], u = b[2 * j], v = b[2 * j + 1];
        re[j] = x * u - y * v;
        im[j] = x * v + y * u;
    }
}

/* The wave of a mode. */
CLONED void illuminate(const float *window, int64_t width, const float *probe,
                       float *restrict field, int64_t side) {
    float re[LARGEST_SIDE], im[LARGEST_SIDE];
    for (int64_t i = 0; i < side; i++, window += 2 * width, probe += 2 * side) {
        split_times(window, probe, re, im, side);
        for (int64_t c = 0; c < side; c += LANES) {
            float *at = field + c / LANES * block_floats(side) + i * ROW;
            memcpy(at, re + c, LANES * sizeof(float));
            memcpy(at + LANES, im + c, LANES * sizeof(float));
        }
    }
}

INLINE void squares(const float *restrict row, float *restrict sum, int more) {
    for (int64_t l = 0; l < LANES; l++)
        sum[l] = (more ? sum[l] : 0) + row[l] * row[l] + row[LANES + l] * row[LANES + l];
}

INLINE void scale(float *restrict row, const float *restrict gain) {
    for (int64_t l = 0; l < LANES; l++) {
        row[l] *= gain[l];
        row[LANES + l] *= -gain[l];
    }
}

typedef struct {
    const float *amplitude, *good;
    float *modulus, *miss;
    float fall, pace, background;
} Response;

/* From sums of squares, which become moduli. */
INLINE void gains(float *restrict modulus, const float *restrict amplitude,
                  const float *restrict good, float *restrict miss, float *restrict errors,
                  const Response *r, float *restrict gain) {
    const float fall = r->fall, pace = r->pace, background = r->background;
    LANEWISE
    for (int64_t l = 0; l < LANES; l++) {
        float m = sqrtf(modulus[l] + background), d = amplitude[l] - m;
        d = good ? d * good[l] : d;
        float g = d / (m + 1e-6f);
        g = pace * (g < -fall ? -fall : g);
        modulus[l] = m, miss[l] = d, gain[l] = g;
        errors[l] += d * d;
    }
}

/* Of a block of every mode, `mode` floats from the next; fields are conjugated on the way. */
CLONED double respond(float *field, int64_t mode, int64_t modes, const Response *r, int64_t side) {
    float errors[LANES] = {0}, gain[LANES], modulus[LANES], miss[LANES];
    const Response own = *r;
    const int64_t parts = parts_of(side), rows = side / parts;
    for (int64_t i = 0; i < side; i++, field += ROW) {
        const int64_t at = (i % rows * parts + i / rows) * side;
        squares(field, modulus, 0);
        for (int64_t p = 1; p < modes; p++)
            squares(field + p * mode, modulus, 1);
        if (own.good)
            gains(modulus, own.amplitude + at, own.good + at, miss, errors, &own, gain);
        else
            gains(modulus, own.amplitude + at, NULL, miss, errors, &own, gain);
        for (int64_t p = 0; p < modes; p++)
            scale(field + p * mode, gain);
        if (own.modulus) {
            memcpy(own.modulus + at, modulus, sizeof modulus);
            memcpy(own.miss + at, miss, sizeof miss);
        }
    }
    double error = 0;
    for (int64_t l = 0; l < LANES; l++)
        error += errors[l];
    return error;
}

INLINE void join(const float *restrict re, const float *restrict im, float *restrict out,
                 int64_t count) {
    for (int64_t j = 0; j < count; j++) {
        out[2 * j] = re[j];
        out[2 * j + 1] = -im[j];
    }
}

/* The same times the conjugate of a window. */
INLINE void join_seen(const float *restrict re, const float *restrict im,
                      const float *restrict window, float *restrict out, int64_t count) {
    for (int64_t j = 0; j < count; j++) {
        float x = re[j], y = im[j], u = window[2 * j], v = window[2 * j + 1];
        out[2 * j] = x * u - y * v;
        out[2 * j + 1] = -(y * u + x * v);
    }
}

INLINE void join_times(const float *restrict re, const float *restrict im,
                       const float *restrict probe, const float *restrict share,
                       float *restrict out, int more, int64_t count) {
    for (int64_t j = 0; j < count; j++) {
        float x = re[j], y = im[j], u = probe[2 * j], v = probe[2 * j + 1];
        float a = share[j] * (x * u - y * v), b = share[j] * (x * v + y * u);
        out[2 * j] = more ? out[2 * j] + a : a;
        out[2 * j + 1] = more ? out[2 * j + 1] - b : -b;
    }
}

/* The change of a mode, from its conjugate, or with a window what it says of the probe; and what it
   says of the patch. */
CLONED void collect(const float *field, const float *probe, const float *share, float *change,
                    const float *window, int64_t width, float *patch, int more, int64_t side) {
    float re[LARGEST_SIDE], im[LARGEST_SIDE];
    for (int64_t i = 0; i < side; i++) {
        for (int64_t c = 0; c < side; c += LANES) {
            const float *in = field + c / LANES * block_floats(side) + i * ROW;
            memcpy(re + c, in, LANES * sizeof(float));
            memcpy(im + c, in + LANES, LANES * sizeof(float));
        }
        const int64_t at = i * side;
        if (change && window)
            join_seen(re, im, window + 2 * i * width, change + 2 * at, side);
        else if (change)
            join(re, im, change + 2 * at, side);
        if (patch && more)
            join_times(re, im, probe + 2 * at, share + at, patch + 2 * at, 1, side);
        else if (patch)
            join_times(re, im, probe + 2 * at, share + at, patch + 2 * at, 0, side);
    }
}

/* Patterns whose probes are made at once, and whose changes are kept; sums made side by side, in as
   many columns as a cache next to the processor holds of all waves. */
enum { TOGETHER = 8, CHANGES = 16, ABREAST = 4, COLUMNS = 256, MANY_FLOATS = 1 << 18 };

INLINE int64_t together(int64_t modes, int64_t side) {
    return 2 * modes * side * side > MANY_FLOATS ? TOGETHER / 2 : TOGETHER;
}

#define FLOATS 4
#define NAMED(name) name##_of_4
#define TARGET
#include "sums.h"
#ifdef ONE_PROCESSOR
#define WIDEST(name, ...) name##_of_4(__VA_ARGS__)
#else
#define FLOATS 8
#define NAMED(name) name##_of_8
#define TARGET __attribute__((target(AVX2)))
#include "sums.h"
#define FLOATS 16
#define NAMED(name) name##_of_16
#define TARGET __attribute__((target(AVX512)))
#include "sums.h"
#define WIDEST(name, ...)                                                                         \
    (MOST_FLOATS >= 16 && HAS_AVX512 ? name##_of_16(__VA_ARGS__)                                  \
     : HAS_AVX2                      ? name##_of_8(__VA_ARGS__)                                   \
                                     : name##_of_4(__VA_ARGS__))
#endif

static void combine(const float *coefficients, const float *waves, int64_t count, float *out,
                    int64_t floats, int64_t patterns) {
    WIDEST(combine, coefficients, waves, count, out, floats, patterns);
}

static void share_out(const float *coefficients, int64_t stride, const float *own, int64_t far,
                      float *out, int64_t floats, int64_t count, int64_t patterns, int first) {
    WIDEST(share_out, coefficients, stride, own, far, out, floats, count, patterns, first);
}

CLONED void add(const float *restrict values, float *restrict row, int64_t count) {
    for (int64_t j = 0; j < count; j++)
        row[j] += values[j];
}

INLINE void add_power(const float *restrict wave, float *restrict sum, int64_t count, int more) {
    for (int64_t j = 0; j < count; j++)
        sum[j] = (more ? sum[j] : 0) + wave[2 * j] * wave[2 * j] + wave[2 * j + 1] * wave[2 * j + 1];
}

/* The power of all modes of a probe; returns its largest. */
CLONED float power_of(const float *probe, float *power, int64_t modes, int64_t pixels) {
    float largest = 0;
    add_power(probe, power, pixels, 0);
    for (int64_t p = 1; p < modes; p++)
        add_power(probe + 2 * p * pixels, power, pixels, 1);
    for (int64_t j = 0; j < pixels; j++)
        largest = largest > power[j] ? largest : power[j];
    return largest;
}

INLINE void inverse(const float *light, float *out, float part, float floor_, int64_t count) {
    LANEWISE
    for (int64_t j = 0; j < count; j++)
        out[j] = 1.0f / (part * light[j] + floor_);
}

/* The denominators of a pattern: of the light of all on its window, or of its own. */
CLONED void divide(const float *window, int64_t width, float *share, float part, float floor_,
                   int64_t side) {
    for (int64_t i = 0; i < side; i++, share += side)
        inverse(window ? window + i * width : share, share, part, floor_, side);
}

/* To the density |O|^2 of a window. */
CLONED void witness(const float *window, int64_t width, float *density, int64_t side) {
    for (int64_t i = 0; i < side; i++, window += 2 * width)
        add_power(window, density + i * side, side, 1);
}

typedef struct {
    float *object; /* (height, width) */
    int64_t height, width;
    const int64_t *corners;            /* (batch, 2) */
    const float *coefficients, *waves; /* (batch, count) of (count, modes, side, side) */
    const float *amplitude, *good;     /* (batch, side, side), (side, side) or NULL */
    float *share;                      /* (batch, side, side) denominators: given, or made */
    const uint8_t *crowded;            /* (batch): whether others of the batch overlap; */
    float *light, *brightest;          /* (height, width) of zeros; (batch): to make them, or NULL */
    float *ramps;                      /* (batch, 5), as `ramps` gives them, or NULL */
    float fall, pace, regularisation;
    float background; /* of what is transformed without a norm */
    float *patches; /* (batch, side, side), or NULL: then nothing is corrected */
    double *errors; /* (batch) */
    float *density; /* (threads, side, side), or NULL: then nothing is said of the probe */
    float *shares;  /* (threads, few, modes, side, side) */
    const float *factors;
    float *scratch; /* of every thread */
    int64_t batch, modes, side, count, few;
} Correction;

/* From one pattern's changes to the next: a row more, for the same reason as of blocks. */
static int64_t changes_floats(int64_t modes, int64_t side) { return 2 * modes * side * side + ROW; }

/* Floats in `scratch`, for each thread: probes, changes, a field per mode, one more, a part, and
   what is seen of a pattern. */
static int64_t floats_for(int64_t modes, int64_t side) {
    return together(modes, side) * 2 * modes * side * side + CHANGES * changes_floats(modes, side) +
           (modes + 1) * field_floats(side) + PART * ROW + 2 * side * side;
}

/* Let rows that are needed soon come nearer. */
INLINE void fetch(const float *from, int64_t floats) {
    for (int64_t j = 0; j < floats; j += LANES)
        __builtin_prefetch(from + j, 0, 2);
}

/* A pattern's patch, and its changes where those are asked for. */
static void correct_one(const Correction *c, int64_t b, const float *probe, float *change,
                        float *scratch) {
    const Number *factors = (const Number *)c->factors;
    const int64_t side = c->side, modes = c->modes, pixels = side * side;
    const int64_t block = block_floats(side), mode = field_floats(side);
    const float *window = c->object + 2 * (c->corners[2 * b] * c->width + c->corners[2 * b + 1]);
    float *wave = scratch + modes * mode, *spare = wave + mode, *modulus = spare + PART * ROW;
    for (int64_t p = 0; p < modes; p++) {
        illuminate(window, c->width, probe + 2 * p * pixels, wave, side);
        float *own = wave;
        for (int64_t x = 0; x < side; x += LANES, own += block) {
            if (p == 0)
                fetch(c->amplitude + b * pixels + x * side, LANES * side);
            analyse(own, spare, factors, side);
            spread(own, scratch + p * mode, x, side);
        }
    }
    float *own = scratch;
    c->errors[b] = 0;
    for (int64_t y = 0; y < side; y += LANES, own += block) {
        const int64_t at = b * pixels + y;
        const Response response = {
            c->amplitude + at, c->good ? c->good + y : NULL, c->ramps ? modulus + y : NULL,
            modulus + pixels + y, c->fall, c->pace / (float)pixels, c->background};
        if (c->patches)
            fetch(c->share + b * pixels + y * side, LANES * side);
        for (int64_t p = 0; p < modes; p++)
            analyse(own + p * mode, spare, factors, side);
        c->errors[b] += respond(own, mode, modes, &response, side);
        for (int64_t p = 0; c->patches && p < modes; p++)
            synthesise(own + p * mode, spare, factors, side);
    }
    if (c->ramps)
        ramps(modulus, modulus + pixels, c->good, c->ramps + 5 * b, 1, side);
    for (int64_t p = 0; c->patches && p < modes; p++) {
        own = wave;
        for (int64_t x = 0; x < side; x += LANES, own += block) {
            gather(scratch + p * mode, own, x, side);
            synthesise(own, spare, factors, side);
        }
        collect(wave, probe + 2 * p * pixels, c->share + b * pixels,
                change ? change + 2 * p * pixels : NULL, window, c->width,
                c->patches + 2 * b * pixels, p > 0, side);
    }
}

/* The first row of a canvas that is a thread's: where patterns come in the order of their rows, a
   thread mostly adds what it made itself and what its cache still has. */
static int64_t first_row(const Correction *c, int64_t thread, int64_t threads) {
    int64_t row = 0;
    for (int64_t t = 1; t <= thread && t < threads; t++) {
        const int64_t middle = c->corners[2 * (c->batch * t / threads)] + c->side / 2;
        row = row > middle ? row : middle;
    }
    return thread < threads ? row : c->height;
}

typedef struct {
    int64_t first, last;
} Band;

/* Which rows of a pattern lie within those of a thread. */
INLINE Band rows_within(const Correction *c, int64_t b, Band own) {
    const int64_t y = c->corners[2 * b];
    return (Band){own.first > y ? own.first - y : 0,
                  own.last < y + c->side ? own.last - y : c->side};
}

/* Add pictures of `numbers` floats a pixel to the rows of a canvas that are this thread's. */
static void merge_rows(const Correction *c, const float *pictures, float *canvas, int64_t numbers,
                       const uint8_t *chosen, Band own) {
    const int64_t side = c->side;
    for (int64_t b = 0; b < c->batch; b++) {
        if (chosen && !chosen[b])
            continue;
        const int64_t y = c->corners[2 * b], x = c->corners[2 * b + 1];
        const Band rows = rows_within(c, b, own);
        for (int64_t i = rows.first; i < rows.last; i++)
            add(pictures + numbers * (b * side + i) * side,
                canvas + numbers * ((y + i) * c->width + x), numbers * side);
    }
}

static void wipe_rows(const Correction *c, Band own) {
    for (int64_t b = 0; b < c->batch; b++) {
        if (!c->crowded[b])
            continue;
        const int64_t y = c->corners[2 * b], x = c->corners[2 * b + 1];
        const Band rows = rows_within(c, b, own);
        for (int64_t i = rows.first; i < rows.last; i++)
            memset(c->light + (y + i) * c->width + x, 0, (size_t)c->side * sizeof(float));
    }
}

INLINE int64_t fewer(int64_t a, int64_t b) { return a < b ? a : b; }

/* 1 / ((1 - a) L + a max|P|^2) of the patterns `first` to before `last`. */
static void make_shares(const Correction *c, Team *team, Band own, int64_t first, int64_t last,
                        float *probes) {
    const int64_t pixels = c->side * c->side, floats = 2 * c->modes * pixels;
    const int64_t most = together(c->modes, c->side);
    for (int64_t b = first; b < last; b += most) {
        const int64_t group = fewer(most, last - b);
        combine(c->coefficients + b * c->count, c->waves, c->count, probes, floats, group);
        for (int64_t k = 0; k < group; k++)
            c->brightest[b + k] =
                power_of(probes + k * floats, c->share + (b + k) * pixels, c->modes, pixels);
    }
    team_meet(team);
    merge_rows(c, c->share, c->light, 1, c->crowded, own);
    team_meet(team);
    float largest = 1e-30f; /* where no pattern of the batch has light */
    for (int64_t b = 0; b < c->batch; b++)
        largest = largest > c->brightest[b] ? largest : c->brightest[b];
    for (int64_t b = first; b < last; b++)
        divide(c->crowded[b] ? c->light + c->corners[2 * b] * c->width + c->corners[2 * b + 1]
                             : NULL,
               c->width, c->share + b * pixels, 1 - c->regularisation,
               c->regularisation * largest, c->side);
}

/* Add the parts of all threads up in the first, in columns `first` to before `last`. */
static void add_parts(float *parts, int64_t floats, int64_t thread, int64_t threads) {
    const int64_t first = floats * thread / threads, last = floats * (thread + 1) / threads;
    for (int64_t t = 1; t < threads; t++)
        add(parts + t * floats + first, parts + first, last - first);
}

/* What a thread works with. */
typedef struct {
    float *probes, *scratch;
    float *changes;          /* of `CHANGES` patterns, */
    float *density, *shares; /* and what becomes of them; NULL: they are not asked for */
} Place;

/* A few patterns that follow one another. */
static void correct_some(const Correction *c, int64_t b, int64_t group, const Place *place,
                         float *changes) {
    const int64_t floats = 2 * c->modes * c->side * c->side;
    const int64_t far = changes_floats(c->modes, c->side);
    combine(c->coefficients + b * c->count, c->waves, c->count, place->probes, floats, group);
    for (int64_t k = 0; k < group; k++, b++) {
        float *change = changes ? changes + k * far : NULL;
        const int64_t *corner = c->corners + 2 * b;
        correct_one(c, b, place->probes + k * floats, change, place->scratch);
        if (change)
            witness(c->object + 2 * (corner[0] * c->width + corner[1]), c->width, place->density,
                    c->side);
    }
}

/* A thread's patterns, and what they say of the probe. */
static void correct_and_tell(const Correction *c, int64_t first, int64_t last, const Place *place) {
    const int64_t pixels = c->side * c->side, floats = 2 * c->modes * pixels;
    const int64_t far = changes_floats(c->modes, c->side), most = together(c->modes, c->side);
    memset(place->density, 0, (size_t)pixels * sizeof(float));
    if (first == last)
        memset(place->shares, 0, (size_t)(c->few * floats) * sizeof(float));
    for (int64_t b = first; b < last; b += CHANGES) {
        const int64_t kept = fewer(CHANGES, last - b);
        for (int64_t k = 0; k < kept; k += most)
            correct_some(c, b + k, fewer(most, kept - k), place, place->changes + k * far);
        share_out(c->coefficients + b * c->count, c->count, place->changes, far, place->shares,
                  floats, c->few, kept, b == first);
    }
}

/* As many patterns as come to this thread: it helps others that are late. */
static void correct_many(const Correction *c, Team *team, int64_t thread, int64_t first,
                         int64_t last, const Place *place) {
    const int64_t most = together(c->modes, c->side);
    int64_t b = first, group = fewer(most, last - b);
    if (!team) {
        for (; group; b += group, group = fewer(most, last - b))
            correct_some(c, b, group, place, NULL);
        return;
    }
    team_deal(team, thread, first, last);
    while ((group = team_take(team, thread, most, &b)))
        correct_some(c, b, group, place, NULL);
}

static void correct_part(void *job, Team *team, int64_t thread, int64_t threads) {
    const Correction *c = job;
    const int64_t pixels = c->side * c->side, floats = 2 * c->modes * pixels;
    const int64_t first = c->batch * thread / threads, last = c->batch * (thread + 1) / threads;
    const Band own = {first_row(c, thread, threads), first_row(c, thread + 1, threads)};
    float *probes = c->scratch + thread * floats_for(c->modes, c->side);
    float *changes = probes + together(c->modes, c->side) * floats;
    const Place place = {probes, changes + CHANGES * changes_floats(c->modes, c->side), changes,
                         c->density ? c->density + thread * pixels : NULL,
                         c->density ? c->shares + thread * c->few * floats : NULL};
    if (c->light)
        make_shares(c, team, own, first, last, probes);
    if (c->density)
        correct_and_tell(c, first, last, &place);
    else
        correct_many(c, team, thread, first, last, &place);
    if (!c->patches)
        return;
    team_meet(team);
    merge_rows(c, c->patches, c->object, 2, NULL, own);
    if (c->light)
        wipe_rows(c, own);
    if (c->density) {
        add_parts(c->density, pixels, thread, threads);
        add_parts(c->shares, c->few * floats, thread, threads);
    }
}

EXPORT int64_t scratch_floats(int64_t modes, int64_t side) { return floats_for(modes, side); }
EXPORT int64_t largest_corrected_side(void) { return LARGEST_SIDE; }

static int64_t lies_inside(const Correction *c) {
    for (int64_t b = 0; b < c->batch; b++) {
        const int64_t y = c->corners[2 * b], x = c->corners[2 * b + 1];
        if (y < 0 || x < 0 || y > c->height - c->side || x > c->width - c->side)
            return 0;
    }
    return 1;
}

/* Answers 0, and has done nothing, when a window leaves the object. */
EXPORT int64_t correct(Team *team, Correction *c) {
    if (!lies_inside(c))
        return 0;
    team_work(team, correct_part, c);
    return 1;
}

/* Waves (side, side) to a field. */
INLINE void split_row(const float *restrict wave, float *restrict re, float *restrict im,
                      int64_t count) {
    for (int64_t j = 0; j < count; j++)
        re[j] = wave[2 * j], im[j] = wave[2 * j + 1];
}

CLONED void split(const float *wave, float *field, int64_t side) {
    float re[LARGEST_SIDE], im[LARGEST_SIDE];
    for (int64_t i = 0; i < side; i++, wave += 2 * side) {
        split_row(wave, re, im, side);
        for (int64_t x = 0; x < side; x += LANES) {
            float *at = field + x / LANES * block_floats(side) + i * ROW;
            memcpy(at, re + x, LANES * sizeof(float));
            memcpy(at + LANES, im + x, LANES * sizeof(float));
        }
    }
}

/* To a sum of rows, or instead of it, a row times a number or times its conjugate (`sign`). */
INLINE void scale_row(const float *restrict field, const float *by, float *restrict to, float sign,
                      int more) {
    const float u = by[0], v = sign * by[1];
    LANEWISE
    for (int64_t l = 0; l < LANES; l++) {
        float x = field[l], y = field[LANES + l];
        to[l] = (more ? to[l] : 0) + x * u - y * v;
        to[LANES + l] = (more ? to[LANES + l] : 0) + x * v + y * u;
    }
}

/* The same of a field, whose rows are frequencies; `by` is a filter (side). */
CLONED void filter(const float *field, const float *by, float *to, float sign, int more,
                   int64_t side) {
    const int64_t parts = parts_of(side), rows = side / parts;
    for (int64_t x = 0; x < side; x += LANES, field += ROW, to += ROW)
        for (int64_t i = 0; i < side; i++, field += ROW, to += ROW) {
            const float *own = by + 2 * (i % rows * parts + i / rows);
            if (more)
                scale_row(field, own, to, sign, 1);
            else
                scale_row(field, own, to, sign, 0);
        }
}

CLONED void conjugate(float *field, float norm, int64_t side) {
    for (int64_t k = 0; k < field_floats(side) / ROW; k++, field += ROW) {
        LANEWISE
        for (int64_t l = 0; l < LANES; l++)
            field[l] *= norm, field[LANES + l] *= -norm;
    }
}

/* The spectrum, transposed, of a wave. */
static void forward(const float *wave, float *spectrum, float *room, const Number *factors,
                    int64_t side) {
    const int64_t block = block_floats(side);
    float *spare = room + field_floats(side), *own = room;
    split(wave, room, side);
    for (int64_t x = 0; x < side; x += LANES, own += block) {
        analyse(own, spare, factors, side);
        spread(own, spectrum, x, side);
    }
    own = spectrum;
    for (int64_t y = 0; y < side; y += LANES, own += block)
        analyse(own, spare, factors, side);
}

/* The wave of a spectrum, which is spent. */
static void backward(float *spectrum, float *wave, float *room, const Number *factors,
                     int64_t side) {
    const int64_t block = block_floats(side);
    float *spare = room + field_floats(side), *own = spectrum;
    conjugate(spectrum, 1.0f / (float)(side * side), side);
    for (int64_t y = 0; y < side; y += LANES, own += block)
        synthesise(own, spare, factors, side);
    own = room;
    for (int64_t x = 0; x < side; x += LANES, own += block) {
        gather(spectrum, own, x, side);
        synthesise(own, spare, factors, side);
    }
    collect(room, NULL, NULL, wave, NULL, 0, NULL, 0, side);
}

/* Between probes and waves, each of which is the probe under one filter along y and one along x.
   Waves with the same filter along x have one transform along x in common. */
typedef struct {
    float *waves, *probe;  /* (few, modes, side, side), (modes, side, side) */
    const float *by;       /* (filters, side), by frequency */
    const int64_t *orders; /* (few, 2): the filters along y and along x */
    const float *factors;
    float *scratch; /* of every thread */
    int64_t modes, side, few, filters;
} Filtering;

EXPORT int64_t filtering_floats(int64_t modes, int64_t side) {
    return (modes + 2) * field_floats(side) + PART * ROW;
}

/* What a thread works with: spectra of every mode, two fields and a part more. */
typedef struct {
    float *spectra, *own, *room, *spare;
} Bench;

static Bench bench_of(const Filtering *f, int64_t thread) {
    const int64_t field = field_floats(f->side);
    float *spectra = f->scratch + thread * filtering_floats(f->modes, f->side);
    float *own = spectra + f->modes * field;
    return (Bench){spectra, own, own + field, own + 2 * field};
}

/* The waves of mode `p` that have filter `m` along x, from the conjugate of a spectrum. */
static void make_waves(const Filtering *f, const float *spectrum, int64_t m, int64_t p,
                       const Bench *b) {
    const int64_t side = f->side, block = block_floats(side);
    const Number *factors = (const Number *)f->factors;
    filter(spectrum, f->by + 2 * m * side, b->room, -1, 0, side);
    for (int64_t y = 0; y < side / LANES; y++)
        synthesise(b->room + y * block, b->spare, factors, side);
    for (int64_t x = 0; x < side / LANES; x++)
        gather(b->room, b->own + x * block, x * LANES, side);
    for (int64_t k = 0; k < f->few; k++) {
        if (f->orders[2 * k + 1] != m)
            continue;
        filter(b->own, f->by + 2 * f->orders[2 * k] * side, b->room, -1, 0, side);
        for (int64_t x = 0; x < side / LANES; x++)
            synthesise(b->room + x * block, b->spare, factors, side);
        collect(b->room, NULL, NULL, f->waves + 2 * (k * f->modes + p) * side * side, NULL, 0,
                NULL, 0, side);
    }
}

/* The same turned round: add what those waves say to a spectrum. */
static void take_waves(const Filtering *f, float *spectrum, int64_t m, int64_t p, const Bench *b) {
    const int64_t side = f->side, block = block_floats(side);
    const Number *factors = (const Number *)f->factors;
    int more = 0;
    for (int64_t k = 0; k < f->few; k++) {
        if (f->orders[2 * k + 1] != m)
            continue;
        split(f->waves + 2 * (k * f->modes + p) * side * side, b->room, side);
        for (int64_t x = 0; x < side / LANES; x++)
            analyse(b->room + x * block, b->spare, factors, side);
        filter(b->room, f->by + 2 * f->orders[2 * k] * side, b->own, -1, more, side);
        more = 1;
    }
    if (!more)
        return;
    for (int64_t x = 0; x < side / LANES; x++)
        spread(b->own + x * block, b->room, x * LANES, side);
    for (int64_t y = 0; y < side / LANES; y++)
        analyse(b->room + y * block, b->spare, factors, side);
    filter(b->room, f->by + 2 * m * side, spectrum, -1, 1, side);
}

/* To each wave its share of the probe: that filtered. */
static void filter_probe(void *job, Team *team, int64_t thread, int64_t threads) {
    const Filtering *f = job;
    const int64_t pixels = f->side * f->side, field = field_floats(f->side);
    const Bench bench = bench_of(f, thread);
    (void)team;
    for (int64_t p = 0; p < f->modes; p++) {
        forward(f->probe + 2 * p * pixels, bench.spectra + p * field, bench.room,
                (const Number *)f->factors, f->side);
        conjugate(bench.spectra + p * field, 1.0f / (float)pixels, f->side);
    }
    for (int64_t t = thread; t < f->filters * f->modes; t += threads)
        make_waves(f, bench.spectra + t % f->modes * field, t / f->modes, t % f->modes, &bench);
}

/* To the probe the sum of the waves, each filtered by the conjugate. */
static void gather_probe(void *job, Team *team, int64_t thread, int64_t threads) {
    const Filtering *f = job;
    const int64_t pixels = f->side * f->side, field = field_floats(f->side);
    const Bench bench = bench_of(f, thread);
    memset(bench.spectra, 0, (size_t)(f->modes * field) * sizeof(float));
    for (int64_t t = thread; t < f->filters * f->modes; t += threads)
        take_waves(f, bench.spectra + t % f->modes * field, t / f->modes, t % f->modes, &bench);
    team_meet(team);
    for (int64_t p = thread; p < f->modes; p += threads) {
        float *sum = f->scratch + p * field; /* of the first thread */
        for (int64_t t = 1; t < threads; t++)
            add(bench_of(f, t).spectra + p * field, sum, field);
        backward(sum, f->probe + 2 * p * pixels, bench.room, (const Number *)f->factors, f->side);
    }
}

typedef struct {
    const Correction *corrections;
    const int64_t *order;         /* (count) numbers of corrections */
    int64_t count, ramps, shares; /* the latter: whether they are asked for */
    float fall, pace;             /* instead of the corrections' own */
    float follow;                 /* how much of its step the probe takes */
    const Filtering *back, *forth; /* what is said of the probe to its step, the probe to its waves;
                                      NULL where the probe stays */
} Series;

/* Takes the probe's step, and makes the waves of the next batch. */
static void move_probe(const Series *s, const float *density, Team *team, int64_t thread,
                       int64_t threads) {
    const int64_t pixels = s->back->side * s->back->side;
    float largest = 1e-12f;
    team_meet(team);
    for (int64_t j = 0; j < pixels; j++)
        largest = largest > density[j] ? largest : density[j];
    const float share = s->follow / largest;
    gather_probe((void *)s->back, team, thread, threads);
    for (int64_t p = thread; p < s->back->modes; p += threads) {
        const float *step = s->back->probe + 2 * p * pixels;
        float *probe = s->forth->probe + 2 * p * pixels;
        for (int64_t j = 0; j < 2 * pixels; j++)
            probe[j] += step[j] * share;
    }
    team_meet(team);
    filter_probe((void *)s->forth, team, thread, threads);
}

static void correct_each(void *job, Team *team, int64_t thread, int64_t threads) {
    const Series *s = job;
    for (int64_t k = 0; k < s->count; k++) {
        Correction c = s->corrections[s->order[k]];
        c.fall = s->fall, c.pace = s->pace;
        if (!s->ramps)
            c.ramps = NULL;
        if (!s->shares)
            c.light = NULL;
        correct_part(&c, team, thread, threads);
        if (s->back)
            move_probe(s, c.density, team, thread, threads);
        if (k + 1 < s->count)
            team_meet(team);
    }
}

/* One after another; answers as `correct` does. */
EXPORT int64_t correct_series(Team *team, Series *s) {
    for (int64_t k = 0; k < s->count; k++)
        if (!lies_inside(s->corrections + s->order[k]))
            return 0;
    team_work(team, correct_each, s);
    return 1;
}

EXPORT void probe_to_waves(Team *team, Filtering *f) { team_work(team, filter_probe, f); }
EXPORT void waves_to_probe(Team *team, Filtering *f) { team_work(team, gather_probe, f); }

EXPORT void product(const float *a, const float *b, float *out, int64_t rows, int64_t inner,
                    int64_t columns) {
    combine(a, b, inner, out, columns, rows);
}

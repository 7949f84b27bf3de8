/* The kernels of this package in one pass each: what `plain.py` says in NumPy.

   Complex numbers are pairs of floats. Arrays are contiguous: object and canvas (H, W), corners
   (B, 2), probes, fields and changes (B, P, N, N), amplitudes, shares and patches (B, N, N), good
   (N, N) or NULL. What is not a number stays so. Functions with corners answer 0, and have done
   nothing, when a window leaves the canvas.
*/

#include "kernels.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KERNEL EXPORT CLONES
#define LARGEST_SIDE 4096

EXPORT int64_t version(void) { return 6; }
EXPORT int64_t largest_side(void) { return LARGEST_SIDE; }

static int inside(const int64_t *corners, int64_t batch, int64_t side, int64_t height,
                  int64_t width) {
    for (int64_t b = 0; b < batch; b++) {
        int64_t y = corners[2 * b], x = corners[2 * b + 1];
        if (y < 0 || x < 0 || y > height - side || x > width - side)
            return 0;
    }
    return 1;
}

INLINE void times(const float *restrict a, const float *restrict b, float *restrict out,
                  int64_t count, float sign) {
    for (int64_t j = 0; j < count; j++) {
        float x = a[2 * j], y = a[2 * j + 1], u = b[2 * j], v = sign * b[2 * j + 1];
        out[2 * j] = x * u - y * v;
        out[2 * j + 1] = x * v + y * u;
    }
}

KERNEL int64_t illuminate(const float *object, int64_t height, int64_t width,
                          const int64_t *corners, const float *probes, float *out, int64_t batch,
                          int64_t modes, int64_t side) {
    if (!inside(corners, batch, side, height, width))
        return 0;
    for (int64_t b = 0; b < batch; b++) {
        const float *window = object + 2 * (corners[2 * b] * width + corners[2 * b + 1]);
        for (int64_t p = 0; p < modes; p++)
            for (int64_t i = 0; i < side; i++) {
                int64_t row = 2 * ((b * modes + p) * side + i) * side;
                times(window + 2 * i * width, probes + row, out + row, side, 1.0f);
            }
    }
    return 1;
}

INLINE void add_squares(const float *restrict wave, float *restrict sum, int64_t side) {
    for (int64_t j = 0; j < side; j++)
        sum[j] += wave[2 * j] * wave[2 * j] + wave[2 * j + 1] * wave[2 * j + 1];
}

INLINE void gains(const float *restrict amplitude, const float *restrict good,
                  float *restrict modulus, float *restrict miss, int64_t side) {
    for (int64_t j = 0; j < side; j++) {
        float m = sqrtf(modulus[j]), d = amplitude[j] - m;
        modulus[j] = m;
        miss[j] = good ? d * good[j] : d;
    }
}

INLINE float limited(float *restrict modulus, const float *restrict miss, float fall, float pace,
                     float *restrict gain, int64_t side) {
    float sum = 0;
    for (int64_t j = 0; j < side; j++) {
        float g = miss[j] / (modulus[j] + 1e-6f);
        sum += miss[j] * miss[j];
        gain[j] = pace * (g < -fall ? -fall : g);
    }
    return sum;
}

INLINE void scaled(const float *restrict wave, const float *restrict gain, float *restrict out,
                   int64_t side) {
    for (int64_t j = 0; j < side; j++) {
        out[2 * j] = wave[2 * j] * gain[j];
        out[2 * j + 1] = wave[2 * j + 1] * gain[j];
    }
}

KERNEL double respond(const float *field, const float *amplitude, const float *good,
                      float *modulus, float *miss, float fall, float pace, float background,
                      float *out, int64_t batch, int64_t modes, int64_t side) {
    float own_modulus[LARGEST_SIDE], own_miss[LARGEST_SIDE], gain[LARGEST_SIDE];
    const int64_t mode = 2 * side * side;
    double error = 0;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t i = 0; i < side; i++) {
            const int64_t row = (b * side + i) * side, first = b * modes * mode + 2 * i * side;
            float *m = modulus ? modulus + row : own_modulus, *d = modulus ? miss + row : own_miss;
            for (int64_t j = 0; j < side; j++)
                m[j] = background;
            for (int64_t p = 0; p < modes; p++)
                add_squares(field + first + p * mode, m, side);
            if (good)
                gains(amplitude + row, good + i * side, m, d, side);
            else
                gains(amplitude + row, NULL, m, d, side);
            error += limited(m, d, fall, pace, gain, side);
            for (int64_t p = 0; p < modes; p++)
                scaled(field + first + p * mode, gain, out + first + p * mode, side);
        }
    return error;
}

INLINE void share_out(const float *restrict wave, const float *restrict share, float *restrict out,
                      int64_t pixels) {
    for (int64_t j = 0; j < pixels; j++) {
        out[2 * j] = wave[2 * j] * share[j];
        out[2 * j + 1] = wave[2 * j + 1] * share[j];
    }
}

INLINE void times_more(const float *restrict a, const float *restrict b, float *restrict out,
                       int64_t count) {
    for (int64_t j = 0; j < count; j++) {
        float x = a[2 * j], y = a[2 * j + 1], u = b[2 * j], v = -b[2 * j + 1];
        out[2 * j] += x * u - y * v;
        out[2 * j + 1] += x * v + y * u;
    }
}

KERNEL void collect(const float *change, const float *probes, const float *share, float *patches,
                    int64_t batch, int64_t modes, int64_t side) {
    float sum[2 * LARGEST_SIDE];
    for (int64_t b = 0; b < batch; b++)
        for (int64_t i = 0; i < side; i++) {
            const int64_t row = (b * side + i) * side;
            for (int64_t p = 0; p < modes; p++) {
                const int64_t own = 2 * ((b * modes + p) * side + i) * side;
                if (p == 0)
                    times(change + own, probes + own, sum, side, -1.0f);
                else
                    times_more(change + own, probes + own, sum, side);
            }
            share_out(sum, share + row, patches + 2 * row, side);
        }
}

INLINE void add(const float *restrict values, float *restrict row, int64_t count) {
    for (int64_t j = 0; j < count; j++)
        row[j] += values[j];
}

/* `numbers` floats make a pixel: 2 of a complex canvas, 1 of a real one. */
KERNEL int64_t merge(float *canvas, int64_t height, int64_t width, const int64_t *corners,
                     const float *patches, int64_t batch, int64_t side, int64_t numbers) {
    if (!inside(corners, batch, side, height, width))
        return 0;
    for (int64_t b = 0; b < batch; b++) {
        float *window = canvas + numbers * (corners[2 * b] * width + corners[2 * b + 1]);
        for (int64_t i = 0; i < side; i++)
            add(patches + numbers * (b * side + i) * side, window + numbers * i * width,
                numbers * side);
    }
    return 1;
}

KERNEL int64_t witness(const float *object, int64_t height, int64_t width, const int64_t *corners,
                       const float *change, float *out, float *density, int64_t batch,
                       int64_t modes, int64_t side) {
    if (!inside(corners, batch, side, height, width))
        return 0;
    for (int64_t b = 0; b < batch; b++) {
        const float *window = object + 2 * (corners[2 * b] * width + corners[2 * b + 1]);
        for (int64_t i = 0; i < side; i++) {
            add_squares(window + 2 * i * width, density + i * side, side);
            for (int64_t p = 0; p < modes; p++) {
                const int64_t row = 2 * ((b * modes + p) * side + i) * side;
                times(window + 2 * i * width, change + row, out + row, side, -1.0f);
            }
        }
    }
    return 1;
}

KERNEL void powers(const float *probes, float *out, int64_t batch, int64_t modes, int64_t side) {
    memset(out, 0, (size_t)(batch * side * side) * sizeof(float));
    for (int64_t b = 0; b < batch; b++)
        for (int64_t p = 0; p < modes; p++)
            add_squares(probes + 2 * (b * modes + p) * side * side, out + b * side * side,
                        side * side);
}

INLINE void inverse(const float *restrict light, float *restrict out, float part, float floor_,
                    int64_t count) {
    for (int64_t j = 0; j < count; j++)
        out[j] = 1.0f / (part * light[j] + floor_);
}

INLINE void own_inverse(float *restrict out, float part, float floor_, int64_t count) {
    for (int64_t j = 0; j < count; j++)
        out[j] = 1.0f / (part * out[j] + floor_);
}

KERNEL int64_t shares(const float *light, int64_t height, int64_t width, const int64_t *corners,
                      const uint8_t *crowded, float *power, float part, float floor_,
                      int64_t batch, int64_t side) {
    if (!inside(corners, batch, side, height, width))
        return 0;
    for (int64_t b = 0; b < batch; b++) {
        const float *window = light + corners[2 * b] * width + corners[2 * b + 1];
        for (int64_t i = 0; i < side; i++) {
            float *row = power + (b * side + i) * side;
            if (crowded[b])
                inverse(window + i * width, row, part, floor_, side);
            else
                own_inverse(row, part, floor_, side);
        }
    }
    return 1;
}

/* Sums of a row: slope times miss and slope squared, then slope y times slope x. */
INLINE void along_y(const float *restrict before, const float *restrict after,
                    const float *restrict miss, const float *restrict good, double *sums,
                    int64_t side) {
    float with_miss = 0, squared = 0;
    for (int64_t j = 0; j < side; j++) {
        float d = after[j] - before[j];
        d = good ? d * good[j] : d;
        with_miss += d * miss[j];
        squared += d * d;
    }
    sums[0] += with_miss;
    sums[2] += squared;
}

INLINE void along_x(const float *restrict row, const float *restrict miss,
                    const float *restrict good, double *sums, int64_t side) {
    float with_miss = 0, squared = 0;
    for (int64_t j = 1; j < side - 1; j++) {
        float d = row[j + 1] - row[j - 1];
        d = good ? d * good[j] : d;
        with_miss += d * miss[j];
        squared += d * d;
    }
    sums[1] += with_miss;
    sums[3] += squared;
}

INLINE void along_both(const float *restrict before, const float *restrict row,
                       const float *restrict after, const float *restrict good, double *sums,
                       int64_t side) {
    float mixed = 0;
    for (int64_t j = 1; j < side - 1; j++) {
        float d = (after[j] - before[j]) * (row[j + 1] - row[j - 1]);
        mixed += good ? d * good[j] * good[j] : d;
    }
    sums[4] += mixed;
}

KERNEL void ramps(const float *modulus, const float *miss, const float *good, float *out,
                  int64_t batch, int64_t side) {
    for (int64_t b = 0; b < batch; b++) {
        double sums[5] = {0, 0, 0, 0, 0};
        for (int64_t i = 0; i < side; i++) {
            const float *m = modulus + (b * side + i) * side, *d = miss + (b * side + i) * side;
            const float *g = good ? good + i * side : NULL;
            if (g)
                along_x(m, d, g, sums, side);
            else
                along_x(m, d, NULL, sums, side);
            if (i == 0 || i == side - 1)
                continue;
            if (g) {
                along_y(m - side, m + side, d, g, sums, side);
                along_both(m - side, m, m + side, g, sums, side);
            } else {
                along_y(m - side, m + side, d, NULL, sums, side);
                along_both(m - side, m, m + side, NULL, sums, side);
            }
        }
        for (int64_t k = 0; k < 5; k++)
            out[5 * b + k] = (float)sums[k];
    }
}

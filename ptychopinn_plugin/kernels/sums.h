/* Sums of waves with real coefficients, for vectors of `FLOATS` floats. Included once for each
   width: a compiler makes poor code of vectors that are wider than the processor's, a dozen times
   slower, and of narrower ones half or a quarter of the speed. `NAMED` gives them names, `TARGET`
   the processor.
*/

typedef float NAMED(Lanes) __attribute__((vector_size(4 * FLOATS), aligned(4), may_alias));

/* Sums of `count` waves, one for each of a few patterns, in the columns `first` to before `last`. */
INLINE void NAMED(sums_of)(const float *restrict coefficients, const float *restrict waves,
                           int64_t count, float *restrict out, int64_t floats, int64_t first,
                           int64_t last, int64_t patterns) {
    typedef NAMED(Lanes) Lanes;
    int64_t j = first;
    for (; j + 2 * FLOATS <= last; j += 2 * FLOATS) {
        Lanes left[ABREAST] = {{0}}, right[ABREAST] = {{0}};
        for (int64_t k = 0; k < count; k++) {
            const Lanes *wave = (const Lanes *)(waves + k * floats + j);
            const Lanes a = wave[0], b = wave[1];
#pragma GCC unroll 4
            for (int64_t p = 0; p < patterns; p++) {
                left[p] += coefficients[p * count + k] * a;
                right[p] += coefficients[p * count + k] * b;
            }
        }
#pragma GCC unroll 4
        for (int64_t p = 0; p < patterns; p++) {
            ((Lanes *)(out + p * floats + j))[0] = left[p];
            ((Lanes *)(out + p * floats + j))[1] = right[p];
        }
    }
    for (; j < last; j++)
        for (int64_t p = 0; p < patterns; p++) {
            float sum = 0;
            for (int64_t k = 0; k < count; k++)
                sum += coefficients[p * count + k] * waves[k * floats + j];
            out[p * floats + j] = sum;
        }
}

/* For every pattern the sum of `count` waves of some floats. */
TARGET static void NAMED(combine)(const float *coefficients, const float *waves, int64_t count,
                                  float *out, int64_t floats, int64_t patterns) {
    for (int64_t first = 0; first < floats; first += COLUMNS) {
        const int64_t last = first + COLUMNS < floats ? first + COLUMNS : floats;
        int64_t p = 0;
        for (; p + ABREAST <= patterns; p += ABREAST)
            NAMED(sums_of)(coefficients + p * count, waves, count, out + p * floats, floats, first,
                           last, ABREAST);
        for (; p + 2 <= patterns; p += 2)
            NAMED(sums_of)(coefficients + p * count, waves, count, out + p * floats, floats, first,
                           last, 2);
        if (p < patterns)
            NAMED(sums_of)(coefficients + p * count, waves, count, out + p * floats, floats, first,
                           last, 1);
    }
}

INLINE void NAMED(share_columns)(const float *coefficients, int64_t stride, const float *own,
                                 int64_t far, float *out, int64_t floats, int64_t patterns,
                                 int64_t abreast, int first) {
    typedef NAMED(Lanes) Lanes;
    Lanes sums[2 * ABREAST];
#pragma GCC unroll 8
    for (int64_t k = 0; k < abreast; k++)
        sums[k] = first ? (Lanes){0} : *(const Lanes *)(out + k * floats);
    for (int64_t p = 0; p < patterns; p++) {
        const Lanes wave = *(const Lanes *)(own + p * far);
#pragma GCC unroll 8
        for (int64_t k = 0; k < abreast; k++)
            sums[k] += coefficients[p * stride + k] * wave;
    }
#pragma GCC unroll 8
    for (int64_t k = 0; k < abreast; k++)
        *(Lanes *)(out + k * floats) = sums[k];
}

/* The same turned round: to `count` waves, what each of some patterns gives of its own, `far`
   floats from the next; a first time instead of what is there. */
TARGET static void NAMED(share_out)(const float *coefficients, int64_t stride, const float *own,
                                    int64_t far, float *out, int64_t floats, int64_t count,
                                    int64_t patterns, int first) {
    for (int64_t j = 0; j < floats; j += FLOATS) {
        int64_t k = 0;
        for (; k + 2 * ABREAST <= count; k += 2 * ABREAST)
            NAMED(share_columns)(coefficients + k, stride, own + j, far, out + k * floats + j,
                                 floats, patterns, 2 * ABREAST, first);
        for (; k + ABREAST <= count; k += ABREAST)
            NAMED(share_columns)(coefficients + k, stride, own + j, far, out + k * floats + j,
                                 floats, patterns, ABREAST, first);
        for (; k < count; k++)
            NAMED(share_columns)(coefficients + k, stride, own + j, far, out + k * floats + j,
                                 floats, patterns, 1, first);
    }
}

#undef FLOATS
#undef NAMED
#undef TARGET

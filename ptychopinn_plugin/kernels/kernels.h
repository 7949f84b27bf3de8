/* What the files share. */

#ifndef KERNELS_H
#define KERNELS_H

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

/* Several versions, of which the one for this processor is taken when the library is loaded. With
   MOST_FLOATS of 8 or 4 they are those of lesser processors, for tests. */
#ifndef MOST_FLOATS
#define MOST_FLOATS 16
#endif
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define AVX512 "arch=x86-64-v4"
#define AVX2 "arch=x86-64-v3"
#define HAS_AVX512 __builtin_cpu_supports("x86-64-v4")
#define HAS_AVX2 __builtin_cpu_supports("x86-64-v3")
#else
#define AVX512 "avx512f"
#define AVX2 "avx2"
#define HAS_AVX512 __builtin_cpu_supports("avx512f")
#define HAS_AVX2 __builtin_cpu_supports("avx2")
#endif
#if MOST_FLOATS == 16
#define CLONES __attribute__((target_clones(AVX512, AVX2, "default")))
#elif MOST_FLOATS == 8
#define CLONES __attribute__((target_clones(AVX2, "default")))
#endif
#endif
#ifndef CLONES
#define CLONES
#define ONE_PROCESSOR
#endif

/* Of moduli and misses (batch, side, side): `slow_phase.ramp_sums`, (batch, 5). */
void ramps(const float *modulus, const float *miss, const float *good, float *out, int64_t batch,
           int64_t side);

#endif

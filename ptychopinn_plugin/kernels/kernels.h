/* What correct.c takes from kernels.c. */

#ifndef KERNELS_H
#define KERNELS_H

#include <stdint.h>

/* Of moduli and misses (batch, side, side): `slow_phase.ramp_sums`, (batch, 5). */
void ramps(const float *modulus, const float *miss, const float *good, float *out, int64_t batch,
           int64_t side);

#endif

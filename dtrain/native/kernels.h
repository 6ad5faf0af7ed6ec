/* What kernels are made of: those in kernels.c, and those that dtrain generates for a plan.
 *
 * A kernel takes its sizes and addresses as an array of words. It returns OK, or why the step stops at it.
 * The compiler is told not to contract products and sums, so arithmetic gives NumPy's very bits; exp, log and tanh
 * of floats are within 2 units in the last place.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef union {
    void *p;
    int64_t i;
    double d;
} word;
typedef int (*kernel)(const word *a);

enum { OK = 0, BAD_VALUE = 1, WAITING = 2, NOT_FINITE = 3 };

#define INLINE static inline __attribute__((always_inline, unused))

INLINE float as_float(int32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
INLINE int32_t as_bits(float f) {
    int32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

#include "numbers.h"

#define dt_exp(x) _Generic((x), float: exp_float, default: exp)(x)
#define dt_log(x) _Generic((x), float: log_float, default: log)(x)
#define dt_tanh(x) _Generic((x), float: tanh_float, default: tanh)(x)
#define dt_sqrt(x) _Generic((x), float: sqrtf, default: sqrt)(x)
#define dt_floor(x) _Generic((x), float: floorf, default: floor)(x)
#define dt_ceil(x) _Generic((x), float: ceilf, default: ceil)(x)
#define dt_rint(x) _Generic((x), float: rintf, default: rint)(x)

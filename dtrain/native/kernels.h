/* What kernels are made of: those in kernels.c, and those that dtrain generates for a plan.
 *
 * A kernel takes its sizes and addresses as an array of words. It returns OK, or why the step stops at it.
 * The compiler is told not to contract products and sums, so arithmetic gives NumPy's very bits; exp, log and tanh
 * of floats miss what is exact by 1.4 units in the last place at most.
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

enum { OK = 0, BAD_VALUE = 1, WAITING = 2, NOT_FINITE = 3, ELSEWHERE = 4 };

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

/* Writing past the caches, for what other ranks read next. A line that another core has had a look at is written 10
 * times as slowly where the cores share no cache: each such line waits for that core to forget it. */
#if defined(__SSE2__)
#include <emmintrin.h>
INLINE void stream(void *to, const void *from, int64_t bytes) {
    char *a = to;
    const char *b = from;
    int64_t i = 0;
    if (((uintptr_t)a & 15) == 0)
        for (; i + 16 <= bytes; i += 16)
            _mm_stream_si128((__m128i *)(a + i), _mm_loadu_si128((const __m128i *)(b + i)));
    memcpy(a + i, b + i, bytes - i);
}
/* before anybody is told that it is there */
INLINE void streamed(void) { _mm_sfence(); }
#else
INLINE void stream(void *to, const void *from, int64_t bytes) { memcpy(to, from, bytes); }
INLINE void streamed(void) {}
#endif

#define dt_exp(x) _Generic((x), float: exp_float, default: exp)(x)
#define dt_log(x) _Generic((x), float: log_float, default: log)(x)
#define dt_tanh(x) _Generic((x), float: tanh_float, default: tanh)(x)

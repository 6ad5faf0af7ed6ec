/* Vectors of floats, and lists of those numbers of an operand that are not zero. */
#include "kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 14 /* of a dense block, which is two vectors wide */
#elif defined(__AVX2__) && defined(__FMA__)
#define LANES 8
#define ROWS 6
#else
#define LANES 4
#define ROWS 6
#endif
/* Entries behind a list that may be written over. */
#define SPARE 8

typedef float vector __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t mask __attribute__((vector_size(LANES * 4), aligned(4)));

/* sum + x * y, rounded once. Left to choose, GCC takes two operations where sums follow one another on some processors. */
INLINE vector add_product(vector sum, float x, vector y) {
#if LANES == 16
    return (vector)_mm512_fmadd_ps(_mm512_set1_ps(x), (__m512)y, (__m512)sum);
#elif LANES == 8
    return (vector)_mm256_fmadd_ps(_mm256_set1_ps(x), (__m256)y, (__m256)sum);
#else
    return sum + x * y;
#endif
}

/* A number of an operand, and the bytes from some begin to what it is multiplied by. */
typedef struct {
    int32_t at;
    float x;
} entry;

#if defined(__AVX2__)
/* A square of eight by eight, its rows to columns. */
INLINE void turn(__m256 *x) {
    __m256 y[8];
    for (int l = 0; l < 8; l += 2) {
        y[l] = _mm256_unpacklo_ps(x[l], x[l + 1]);
        y[l + 1] = _mm256_unpackhi_ps(x[l], x[l + 1]);
    }
    for (int l = 0; l < 8; l += 4)
        for (int m = 0; m < 2; m++) {
            x[l + 2 * m] = _mm256_shuffle_ps(y[l + m], y[l + m + 2], 0x44);
            x[l + 2 * m + 1] = _mm256_shuffle_ps(y[l + m], y[l + m + 2], 0xee);
        }
    for (int l = 0; l < 4; l++) y[l] = x[l], y[l + 4] = x[l + 4];
    for (int l = 0; l < 4; l++) {
        x[l] = _mm256_permute2f128_ps(y[l], y[l + 4], 0x20);
        x[l + 4] = _mm256_permute2f128_ps(y[l], y[l + 4], 0x31);
    }
}

/* For each set of eight bits the places of those that are set, from the first to the last, a byte each. */
static uint64_t places_of[256];
__attribute__((constructor)) static void make_places(void) {
    for (unsigned bits = 0; bits < 256; bits++)
        for (unsigned l = 0, n = 0; l < 8; l++)
            if (bits >> l & 1) places_of[bits] |= (uint64_t)l << 8 * n++;
}

/* Appends the numbers of eight that are not zero, with what stands in `at` beside them; writes eight entries anyway. */
INLINE entry *keep(entry *e, __m256 x, __m256i at) {
    const unsigned bits = _mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NEQ_UQ));
    const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)places_of[bits]));
    const __m256i y = _mm256_castps_si256(_mm256_permutevar8x32_ps(x, order));
    at = _mm256_permutevar8x32_epi32(at, order);
    const __m256i even = _mm256_unpacklo_epi32(at, y), odd = _mm256_unpackhi_epi32(at, y);
    _mm256_storeu_si256((__m256i *)e, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256((__m256i *)(e + 4), _mm256_permute2x128_si256(even, odd, 0x31));
    return e + __builtin_popcount(bits);
}

/* For eight numbers, all bits where one is not finite. */
INLINE __m256i not_finite(__m256 x) {
    const __m256i exponent = _mm256_set1_epi32(0x7f800000);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(x), exponent), exponent);
}
#endif

INLINE char *up(char *p) { return (char *)(((intptr_t)p + 63) & ~(intptr_t)63); }

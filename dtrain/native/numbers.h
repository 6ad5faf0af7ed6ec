/* What C and CUDA share, so that both give the same bits: functions of a number.
 *
 * Before it come INLINE, the integers of <stdint.h>, as_float and as_bits, and the names of <float.h> and <math.h> that it uses.
 */

/* 2^n exp(r) with |r| <= ln(2) / 2; n is found by adding 1.5 * 2^23, exp(r) by its series. */
INLINE float exp_float(float x) {
    float c = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;
    float shifted = c * 1.44269504f + 12582912.0f;
    int32_t n = as_bits(shifted) - 0x4b400000;
    float k = shifted - 12582912.0f;
    float r = (c - k * 0.693359375f) + k * 2.12194440e-4f;
    float y = 1.0f / 5040;
    y = y * r + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = (y * (r * r) + r) + 1.0f;
    int32_t half = n >> 1; /* in two steps: 2^128 is no float, and 2^-140 is no normal one */
    y = y * as_float((half + 127) * (1 << 23)) * as_float((n - half + 127) * (1 << 23));
    return x != x ? x : y;
}

/* e ln(2) + log(m) with m in [sqrt(1/2), sqrt(2)), by the series of 2 artanh((m - 1) / (m + 1)). */
INLINE float log_float(float x) {
    float normal = x < 1.17549435e-38f ? x * 8388608.0f : x;
    int32_t bits = as_bits(normal) - 0x3f3504f3;
    float e = (float)((bits >> 23) - (x < 1.17549435e-38f ? 23 : 0));
    float f = as_float((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
    float s = f / (2.0f + f);
    float z = s * s;
    float series = z * (2.0f / 3 + z * (2.0f / 5 + z * (2.0f / 7 + z * (2.0f / 9))));
    float square = 0.5f * f * f;
    float y = e * 0.693359375f + ((s * (square + series) + e * -2.12194440e-4f) - square + f);
    y = x == 0.0f ? -INFINITY : y;
    y = x < 0.0f ? NAN : y;
    return x == INFINITY || x != x ? x : y;
}

/* Of |x|: near 0 an odd polynomial, elsewhere 1 - 2 / (exp(2 |x|) + 1). */
INLINE float tanh_float(float x) {
    float a = fabsf(x), z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float near = a + a * z * p;
    float far = 1.0f - 2.0f / (exp_float(2.0f * a) + 1.0f);
    return copysignf(a < 0.625f ? near : far, x);
}

/* The i-th of integers of so many bytes each. */
INLINE int64_t index_at(const void *p, int64_t itemsize, int64_t i) {
    if (itemsize == 8) return ((const int64_t *)p)[i];
    if (itemsize == 4) return ((const int32_t *)p)[i];
    if (itemsize == 2) return ((const int16_t *)p)[i];
    return ((const uint8_t *)p)[i];
}

/* Where in 0 .. n - 1 what lies at i, beside an image or in it, is; -1: nowhere. fill: constant, reflect, nearest, wrap. */
INLINE int64_t inside(int64_t i, int64_t n, int64_t fill) {
    if (i >= 0 && i < n) return i;
    if (fill == 0) return -1;
    if (fill == 2) return i < 0 ? 0 : n - 1;
    const int64_t period = fill == 1 ? 2 * n : n, k = (i % period + period) % period;
    return k < n ? k : 2 * n - 1 - k;
}

/* A place as a number that fits an integer, a NaN as 0. */
INLINE float near_float(float v) { return v != v ? 0 : v < -1e9f ? -1e9f : v > 1e9f ? 1e9f : v; }
INLINE double near_double(double v) { return v != v ? 0 : v < -1e9 ? -1e9 : v > 1e9 ? 1e9 : v; }

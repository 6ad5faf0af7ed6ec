/* Pooling of images of floats, and its gradients: NumPy's bits, and its order of terms. */
#include "kernels.h"
#include "windows.h"

/* Channels whose best entries stay in the L1 cache. */
#define RUN 64

/* x, out, positions, n, shape: the largest entry of each window, a NaN where there is one, and its number in the window;
 * what is larger than none is entry 0 */
int max_pool(const word *w) {
    const shape s = *(const shape *)w[4].p;
    const float *x = w[0].p;
    float *out = w[1].p;
    uint8_t *positions = w[2].p;
    for (int64_t e = 0; e < w[3].i; e++, x += s.height * s.width * s.channels)
        for (int64_t i = 0; i < s.rows; i++)
            for (int64_t j = 0; j < s.columns; j++, out += s.channels, positions += s.channels)
                for (int64_t c = 0; c < s.channels; c += RUN) {
                    const int64_t n = least(RUN, s.channels - c);
                    float best[RUN];
                    int32_t at[RUN];
                    for (int64_t k = 0; k < n; k++) best[k] = -INFINITY, at[k] = 0;
                    for (int64_t a = 0, entry = 0; a < s.kh; a++)
                        for (int64_t b = 0; b < s.kw; b++, entry++) {
                            const int64_t row = i * s.sh + a - s.top, column = j * s.sw + b - s.left;
                            if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
                            const float *y = x + (row * s.width + column) * s.channels + c;
                            const int32_t here = (int32_t)entry;
#pragma omp simd
                            for (int64_t k = 0; k < n; k++) {
                                at[k] = y[k] > best[k] ? here : at[k];
                                best[k] = y[k] > best[k] || y[k] != y[k] ? y[k] : best[k];
                            }
                        }
                    memcpy(out + c, best, n * sizeof(float));
                    for (int64_t k = 0; k < n; k++) positions[c + k] = (uint8_t)at[k];
                }
    return OK;
}

INLINE float weight(const shape *s, int64_t i, int64_t j) {
    const int64_t top = i * s->sh - s->top, left = j * s->sw - s->left;
    const int64_t rows = least(top + s->kh, s->height) - most(top, 0), columns = least(left + s->kw, s->width) - most(left, 0);
    return (float)(1.0 / (double)(rows * columns));
}

/* x, out, n, shape: the mean of what of each window lies in the image */
int avg_pool(const word *w) {
    const shape s = *(const shape *)w[3].p;
    const float *x = w[0].p;
    float *out = w[1].p;
    for (int64_t e = 0; e < w[2].i; e++, x += s.height * s.width * s.channels)
        for (int64_t i = 0; i < s.rows; i++)
            for (int64_t j = 0; j < s.columns; j++, out += s.channels) {
                int first = 1;
                for (int64_t a = 0; a < s.kh; a++)
                    for (int64_t b = 0; b < s.kw; b++) {
                        const int64_t row = i * s.sh + a - s.top, column = j * s.sw + b - s.left;
                        if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
                        const float *y = x + (row * s.width + column) * s.channels;
                        if (first) memcpy(out, y, s.channels * sizeof(float));
                        else
                            for (int64_t k = 0; k < s.channels; k++) out[k] += y[k];
                        first = 0;
                    }
                const float scale = weight(&s, i, j);
                for (int64_t k = 0; k < s.channels; k++) out[k] *= scale;
            }
    return OK;
}

/* Of each place on an axis, for each entry of a window, the window that has this entry there; -1: there is none. */
static void place_windows(int64_t n, int64_t size, int64_t stride, int64_t before, int64_t count, int32_t *windows) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t a = 0; a < size; a++) {
            const int64_t from = i + before - a;
            *windows++ = from < 0 || from % stride || from / stride >= count ? -1 : (int32_t)(from / stride);
        }
}

/* For each place of the images the windows over it, entry by entry: TERM adds what the k-th channel of one gives. */
#define GRADIENT(NAME, EACH, TERM)                                                                              \
    int NAME(const word *w) {                                                                                   \
        const int at = EACH;                                                                                    \
        const shape s = *(const shape *)w[3 + at].p;                                                            \
        const float *dy = w[0].p;                                                                               \
        const uint8_t *positions = at ? w[2].p : 0;                                                             \
        float *dx = w[1].p;                                                                                     \
        int32_t down[s.height * s.kh], across[s.width * s.kw];                                                  \
        place_windows(s.height, s.kh, s.sh, s.top, s.rows, down);                                               \
        place_windows(s.width, s.kw, s.sw, s.left, s.columns, across);                                          \
        const int64_t flow = s.rows * s.columns * s.channels;                                                   \
        const int apart = s.kh <= s.sh && s.kw <= s.sw;                                                         \
        for (int64_t e = 0; e < w[2 + at].i; e++, dy += flow, positions += at ? flow : 0)                       \
            for (int64_t i = 0; i < s.height; i++)                                                              \
                for (int64_t j = 0; j < s.width; j++, dx += s.channels) {                                       \
                    int some = 0;                                                                               \
                    if (!apart) memset(dx, 0, s.channels * sizeof(float));                                      \
                    for (int64_t a = 0; a < s.kh; a++)                                                          \
                        for (int64_t b = 0; b < s.kw; b++) {                                                    \
                            const int64_t row = down[i * s.kh + a], column = across[j * s.kw + b];              \
                            if (row < 0 || column < 0) continue;                                                \
                            const int64_t from = (row * s.columns + column) * s.channels;                       \
                            const float *d = dy + from;                                                         \
                            TERM                                                                                \
                            some = 1;                                                                           \
                        }                                                                                       \
                    if (apart && !some) memset(dx, 0, s.channels * sizeof(float));                              \
                }                                                                                               \
        return OK;                                                                                              \
    }

/* dy, dx, positions, n, shape */
GRADIENT(max_pool_grad, 1, const uint8_t *p = positions + from; const uint8_t entry = (uint8_t)(a * s.kw + b);
         if (apart) for (int64_t k = 0; k < s.channels; k++) dx[k] = p[k] == entry ? d[k] : 0;
         else for (int64_t k = 0; k < s.channels; k++) dx[k] += p[k] == entry ? d[k] : 0;)

/* dy, dx, n, shape */
GRADIENT(avg_pool_grad, 0, const float scale = weight(&s, row, column);
         if (apart) for (int64_t k = 0; k < s.channels; k++) dx[k] = d[k] * scale;
         else for (int64_t k = 0; k < s.channels; k++) dx[k] += d[k] * scale;)

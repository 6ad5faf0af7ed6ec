/* Convolutions of floats and their gradients, for operands that are mostly zeros.
 *
 * Images are [height, width, channels]; a window's entries lie in runs of neighbours, a row of the window each (where
 * columns of it are apart, an entry each). Three loops do everything:
 *
 * Gathering: a block of results, as many columns as there are registers for and two vectors of channels wide, stays in
 * registers while the window's entries run past.
 *
 * Spreading: a result is what many windows add to it. The numbers of a position that are not zero are put in a list, and
 * what each is multiplied by is added to the run that lies under the position. This is the gradient to the images, and
 * at stride 1 a convolution, too: that of the filter turned round.
 *
 * Summing: the gradient to the filter, of which a part stays in registers while a list of all numbers of a channel of dy
 * that are not zero runs past; where there are few zeros, of four channels, while all positions do.
 *
 * Behind a pooling of 2 x 2 three of four entries of dy are zero at least, and those whose ReLU is off besides. Each
 * result is a sum of fused multiply-adds in one order, whichever loop makes it: the window's rows, its columns, the
 * channels; in the gradient to the images, positions of dy in their order, then its channels; in that to the filter,
 * images, then positions. So the choice, made by counting zeros, changes no bit, and a row of the batch depends on no
 * other. Where what zeros would be multiplied by is not finite, none is passed over.
 */
#include "lists.h"
#include "windows.h"

#define WIDTH (2 * LANES)
/* Vectors of a run that stay in registers: with a list, and for four channels at once. */
#define MOST 12
#if LANES == 16
#define CHUNK 6
#else
#define CHUNK 3
#endif
/* Positions that are worked on at once where images are small, and entries of a list at most. */
#define POSITIONS 256
#define ENTRIES 131072
/* Floats of a run below which the rows of a window are written out side by side. */
#define SHORT 64
/* Of ten numbers so many may be other than zero for lists to pay: of images, and of what flows back to a filter. */
#define FEW 4
#define FEW_FLOWS 4

/* What windows reach of the images, padding included. */
INLINE int64_t down(const shape *s) { return (s->rows - 1) * s->sh + (s->kh - 1) * s->dh + 1; }
INLINE int64_t across(const shape *s) { return (s->columns - 1) * s->sw + (s->kw - 1) * s->dw + 1; }
INLINE int64_t padded_size(const shape *s) { return down(s) * across(s) * s->channels; }

/* The windows of what is a window now, at stride 1: results become images. */
static shape turned(const shape *s) {
    return (shape){s->rows, s->columns, s->outputs, s->height, s->width, s->channels, s->kh, s->kw, 1, 1, s->dh, s->dw,
                   (s->kh - 1) * s->dh - s->top, (s->kw - 1) * s->dw - s->left};
}

/* How the entries of a window lie: runs of neighbours, in vectors, of which `width` at once are worked on. */
typedef struct {
    int64_t runs, run, vectors, parts, width;
} layout;
static layout split(int64_t runs, int64_t run, int64_t limit) {
    layout l = {runs, run, parts_of(run, LANES), 0, 0};
    l.parts = parts_of(l.vectors, limit);
    l.width = parts_of(l.vectors, l.parts);
    return l;
}
static layout layout_of(const shape *s, int64_t limit) {
    return s->dw == 1 ? split(s->kh, s->kw * s->channels, limit) : split(s->kh * s->kw, s->channels, limit);
}
/* Where run r begins in the padded images, seen from the window's begin. */
INLINE int64_t begin_of(const shape *s, int64_t r) {
    const int64_t line = s->dh * across(s) * s->channels;
    return s->dw == 1 ? r * line : r / s->kw * line + r % s->kw * s->dw * s->channels;
}
INLINE int64_t vectors_of(const layout *l, int64_t part) { return least(l->width, l->vectors - part * l->width); }

/* to[j, i] = from[i, j] */
static void transpose(const float *from, int64_t step, int64_t rows, int64_t columns, float *to, int64_t to_step) {
    int64_t whole = 0;
#if defined(__AVX2__)
    for (; whole + 8 <= rows; whole += 8) {
        int64_t j = 0;
        for (; j + 8 <= columns; j += 8) {
            __m256 x[8];
            for (int l = 0; l < 8; l++) x[l] = _mm256_loadu_ps(from + (whole + l) * step + j);
            turn(x);
            for (int l = 0; l < 8; l++) _mm256_storeu_ps(to + (j + l) * to_step + whole, x[l]);
        }
        for (; j < columns; j++)
            for (int64_t i = whole; i < whole + 8; i++) to[j * to_step + i] = from[i * step + j];
    }
#endif
    for (int64_t i = whole; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) to[j * to_step + i] = from[i * step + j];
}

static int64_t count_nonzero(const float *x, int64_t n) {
    int64_t found = 0;
    for (int64_t low = 0; low < n; low += 4096) {
        const int64_t high = least(low + 4096, n);
        int32_t some = 0;
#pragma omp simd reduction(+ : some)
        for (int64_t i = low; i < high; i++) some += x[i] != 0;
        found += some;
    }
    return found;
}

static int is_finite(const float *x, int64_t n) {
    int32_t bad = 0;
#pragma omp simd reduction(| : bad)
    for (int64_t i = 0; i < n; i++) bad |= (as_bits(x[i]) & 0x7f800000) == 0x7f800000;
    return !bad;
}

/* Copies between an image and the padded one: the part that both have. */
static void copy_image(const shape *s, float *image, float *padded, int inwards) {
    const int64_t line = across(s) * s->channels, n = least(s->width, across(s) - s->left) * s->channels;
    const int64_t count = least(s->height, down(s) - s->top);
    for (int64_t i = 0; i < count && n > 0; i++) {
        float *a = image + i * s->width * s->channels, *b = padded + (i + s->top) * line + s->left * s->channels;
        if (inwards) memcpy(b, a, n * sizeof(float));
        else memcpy(a, b, n * sizeof(float));
    }
}

/* -- gathering ------------------------------------------------------------------------------------------------- */
/* c[i, 0..WIDTH) = sum over the runs and their entries of a[i * step + begin + k] * b[k, 0..WIDTH) for i < N */
#define BLOCK(N)                                                                                                \
    static void block_##N(int64_t runs, int64_t run, const int64_t *begins, const float *a, int64_t step,       \
                          const float *b, float *c, int64_t ci) {                                               \
        vector left[N], right[N];                                                                               \
        _Pragma("GCC unroll 16") for (int i = 0; i < N; i++) left[i] = right[i] = (vector){0};                  \
        for (int64_t r = 0; r < runs; r++) {                                                                    \
            const float *x = a + begins[r];                                                                     \
            for (int64_t k = 0; k < run; k++, x++, b += WIDTH) {                                                \
                const vector p = *(const vector *)b, q = *(const vector *)(b + LANES);                          \
                _Pragma("GCC unroll 16") for (int i = 0; i < N; i++) {                                          \
                    const float y = x[i * step];                                                                \
                    left[i] = add_product(left[i], y, p);                                                       \
                    right[i] = add_product(right[i], y, q);                                                     \
                }                                                                                               \
            }                                                                                                   \
        }                                                                                                       \
        _Pragma("GCC unroll 16") for (int i = 0; i < N; i++) {                                                  \
            *(vector *)(c + i * ci) = left[i];                                                                  \
            *(vector *)(c + i * ci + LANES) = right[i];                                                         \
        }                                                                                                       \
    }
BLOCK(1) BLOCK(2) BLOCK(3) BLOCK(4) BLOCK(5) BLOCK(6) BLOCK(7)
BLOCK(8) BLOCK(9) BLOCK(10) BLOCK(11) BLOCK(12) BLOCK(13) BLOCK(14)

typedef void (*block)(int64_t, int64_t, const int64_t *, const float *, int64_t, const float *, float *, int64_t);
static const block blocks[] = {0,       block_1, block_2, block_3,  block_4,  block_5,  block_6, block_7,
                               block_8, block_9, block_10, block_11, block_12, block_13, block_14};

/* The filter [entries, outputs] as panels [entries, WIDTH], with zeros behind the last.
 * turn: f is [entries of a window, outputs of s, channels of s], whose entries are taken from the last to the first. */
static void pack_panels(const shape *s, const float *f, int turn, float *to) {
    const int64_t taps = s->kh * s->kw;
    for (int64_t j = 0; j < s->outputs; j += WIDTH) {
        const int64_t n = least(WIDTH, s->outputs - j);
        if (n < WIDTH) memset(to, 0, taps * s->channels * WIDTH * sizeof(float));
        for (int64_t t = 0; t < taps; t++, to += s->channels * WIDTH) {
            const float *tap = f + (turn ? taps - 1 - t : t) * s->channels * s->outputs;
            if (turn) transpose(tap + j * s->channels, s->channels, n, s->channels, to, WIDTH);
            else
                for (int64_t c = 0; c < s->channels; c++)
                    memcpy(to + c * WIDTH, tap + c * s->outputs + j, n * sizeof(float));
        }
    }
}

/* y of padded images that lie `far` apart; panels: see pack_panels */
static void gather_windows(const shape *s, int64_t n, const float *x, int64_t far, const float *panels, float *const *y) {
    const layout l = layout_of(s, MOST);
    const int64_t step = s->sw * s->channels, line = s->sh * across(s) * s->channels;
    const int64_t parts = parts_of(s->columns, ROWS), depth = l.runs * l.run;
    int64_t begins[l.runs];
    for (int64_t r = 0; r < l.runs; r++) begins[r] = begin_of(s, r);
    for (int64_t j = 0; j < s->outputs; j += WIDTH, panels += depth * WIDTH) {
        const int64_t wide = least(WIDTH, s->outputs - j);
        for (int64_t e = 0; e < n; e++)
            for (int64_t i = 0; i < s->rows; i++)
                for (int64_t t = 0; t < parts; t++) {
                    const int64_t low = s->columns * t / parts, count = s->columns * (t + 1) / parts - low;
                    const float *a = x + e * far + i * line + low * step;
                    float *c = y[e] + (i * s->columns + low) * s->outputs + j, edge[ROWS * WIDTH];
                    if (wide == WIDTH) {
                        blocks[count](l.runs, l.run, begins, a, step, panels, c, s->outputs);
                        continue;
                    }
                    blocks[count](l.runs, l.run, begins, a, step, panels, edge, WIDTH);
                    for (int64_t k = 0; k < count; k++) memcpy(c + k * s->outputs, edge + k * WIDTH, wide * sizeof(float));
                }
    }
}

/* -- sums over lists ------------------------------------------------------------------------------------------- */
/* c[0..N * LANES) += sum over the list of x * b[at, 0..N * LANES), but for what `last` leaves out of the last vector */
#define SUM(N)                                                                                                  \
    static void sum_##N(const entry *e, const entry *end, const float *b, float *c, const mask *last) {         \
        vector sum[N];                                                                                          \
        for (int v = 0; v < N; v++) sum[v] = *(vector *)(c + v * LANES);                                        \
        const mask rest = (mask)sum[N - 1] & ~*last;                                                            \
        for (; e < end; e++) {                                                                                  \
            const float *y = (const float *)((const char *)b + e->at);                                          \
            _Pragma("GCC unroll 12") for (int v = 0; v < N; v++)                                                \
                sum[v] = add_product(sum[v], e->x, *(vector *)(y + v * LANES));                                 \
        }                                                                                                       \
        for (int v = 0; v + 1 < N; v++) *(vector *)(c + v * LANES) = sum[v];                                    \
        *(mask *)(c + (N - 1) * LANES) = ((mask)sum[N - 1] & *last) | rest;                                     \
    }
SUM(1) SUM(2) SUM(3) SUM(4) SUM(5) SUM(6) SUM(7) SUM(8) SUM(9) SUM(10) SUM(11) SUM(12)

typedef void (*sum)(const entry *, const entry *, const float *, float *, const mask *);
static const sum sums[] = {0, sum_1, sum_2, sum_3, sum_4, sum_5, sum_6, sum_7, sum_8, sum_9, sum_10, sum_11, sum_12};

static mask first_lanes(int64_t n) {
    mask m;
    for (int l = 0; l < LANES; l++) m[l] = l < n ? -1 : 0;
    return m;
}

/* c[q, 0..N * LANES) += sum over p of d[p, q] * b[at[p], 0..N * LANES) for q < Q, but for what `last` leaves out */
#define DENSE(Q, N)                                                                                             \
    static void dense_##Q##_##N(int64_t n, const int32_t *at, const float *b, const float *d, int64_t step,     \
                                int64_t dq, float *c, int64_t ci, const mask *last) {                           \
        const mask m = *last;                                                                                   \
        vector sum[Q * N];                                                                                      \
        _Pragma("GCC unroll 24") for (int i = 0; i < Q * N; i++)                                                \
            sum[i] = *(vector *)(c + i / N * ci + i % N * LANES);                                               \
        for (int64_t p = 0; p < n; p++, d += step) {                                                            \
            const float *y = (const float *)((const char *)b + at[p]);                                          \
            _Pragma("GCC unroll 24") for (int i = 0; i < Q * N; i++)                                            \
                sum[i] = add_product(sum[i], d[i / N * dq], *(const vector *)(y + i % N * LANES));                                      \
        }                                                                                                       \
        _Pragma("GCC unroll 24") for (int i = 0; i < Q * N; i++) {                                              \
            mask *to = (mask *)(c + i / N * ci + i % N * LANES);                                                \
            *to = i % N < N - 1 ? (mask)sum[i] : ((mask)sum[i] & m) | (*to & ~m);                               \
        }                                                                                                       \
    }
DENSE(1, 1) DENSE(1, 2) DENSE(1, 3) DENSE(4, 1) DENSE(4, 2) DENSE(4, 3)
#if CHUNK == 6
DENSE(1, 4) DENSE(1, 5) DENSE(1, 6) DENSE(4, 4) DENSE(4, 5) DENSE(4, 6)
#endif
typedef void (*dense_sum)(int64_t, const int32_t *, const float *, const float *, int64_t, int64_t, float *, int64_t,
                          const mask *);
static const dense_sum dense_sums[2][CHUNK + 1] = {
#if CHUNK == 6
    {0, dense_1_1, dense_1_2, dense_1_3, dense_1_4, dense_1_5, dense_1_6},
    {0, dense_4_1, dense_4_2, dense_4_3, dense_4_4, dense_4_5, dense_4_6},
#else
    {0, dense_1_1, dense_1_2, dense_1_3},
    {0, dense_4_1, dense_4_2, dense_4_3},
#endif
};

/* -- spreading ------------------------------------------------------------------------------------------------- */
/* The filter [entries of a window, channels, outputs] as [runs, parts of a run, outputs, vectors of the part].
 * turn: f is [entries, outputs, channels], whose entries are taken from the last to the first. */
static void pack_runs(const shape *s, const layout *l, const float *f, int turn, float *to) {
    const int64_t taps = s->kh * s->kw, size = s->channels * s->outputs, each = taps / l->runs, part = l->width * LANES;
    memset(to, 0, l->runs * l->parts * s->outputs * part * sizeof(float));
    for (int64_t t = 0; t < taps; t++) {
        const float *tap = f + (turn ? taps - 1 - t : t) * size;
        float *run = to + t / each * l->parts * s->outputs * part;
        for (int64_t c = 0, at = t % each * s->channels; c < s->channels;) { /* as much as one part takes */
            const int64_t p = at / part, n = least(s->channels - c, (p + 1) * part - at);
            float *out = run + p * s->outputs * part + at - p * part;
            if (turn)
                for (int64_t o = 0; o < s->outputs; o++)
                    memcpy(out + o * part, tap + o * s->channels + c, n * sizeof(float));
            else transpose(tap + c * s->outputs, s->outputs, n, s->outputs, out, part);
            c += n;
            at += n;
        }
    }
}

/* Appends the channels of a position that are not zero; step: bytes from one to the next. */
static entry *list_channels(const float *x, int64_t n, int32_t step, entry *e) {
    int64_t k = 0;
#if defined(__AVX2__)
    __m256i at = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(step));
    for (; k + 8 <= n; k += 8, at = _mm256_add_epi32(at, _mm256_set1_epi32(8 * step)))
        e = keep(e, _mm256_loadu_ps(x + k), at);
#endif
    for (; k < n; k++)
        if (x[k] != 0) *e++ = (entry){(int32_t)k * step, x[k]};
    return e;
}

/* Positions of an image worked on at once: whole rows, all of several images where they are small. */
static int64_t rows_at_once(const shape *s, int64_t channels) {
    return most(1, least(s->rows, ENTRIES / most(1, s->columns * channels)));
}
static int64_t images_at_once(const shape *s, int64_t channels, int64_t n) {
    const int64_t positions = s->rows * s->columns;
    return most(1, least(n, least(POSITIONS, ENTRIES / channels) / positions));
}

/* Adds to padded images, `far` apart, what dy [rows, columns, outputs] spreads; dense: without passing over zeros, four
 * rows at a time, whose windows' rows of one number are apart. */
static void spread(const shape *s, const layout *l, int64_t n, const float *const *dy, const float *runs, int dense, float *padded, int64_t far, entry *list, const entry **ends) {
    const int64_t part = l->width * LANES, high = rows_at_once(s, s->outputs);
    const int64_t step = s->sw * s->channels, line = s->sh * across(s) * s->channels;
    const mask whole = first_lanes(LANES), end = first_lanes(l->run - (l->vectors - 1) * LANES);
    for (int64_t r = l->runs - 1; r >= 0 && dense; r--)
        for (int64_t t = l->parts - 1; t >= 0; t--)
            for (int64_t v = (vectors_of(l, t) - 1) / CHUNK * CHUNK; v >= 0; v -= CHUNK) {
                const int64_t vectors = least(CHUNK, vectors_of(l, t) - v);
                const float *b = runs + (r * l->parts + t) * s->outputs * part + v * LANES;
                const mask *last = t * l->width + v + vectors == l->vectors ? &end : &whole;
                int32_t at[s->outputs];
                for (int64_t o = 0; o < s->outputs; o++) at[o] = (int32_t)(o * part * sizeof(float));
                for (int64_t k = 0; k < n; k++)
                    for (int64_t i = 0, four; i < s->rows; i += four ? 4 : 1) {
                        float *c = padded + k * far + i * line + begin_of(s, r) + t * part + v * LANES;
                        const float *d = dy[k] + i * s->columns * s->outputs;
                        four = s->rows - i >= 4;
                        for (int64_t j = 0; j < s->columns; j++, c += step, d += s->outputs)
                            dense_sums[four][vectors](s->outputs, at, b, d, 1, s->columns * s->outputs, c, line, last);
                    }
            }
    for (int64_t low = 0; low < s->rows && !dense; low += high) {
        const int64_t rows = least(high, s->rows - low), positions = rows * s->columns;
        entry *e = list;
        for (int64_t k = 0; k < n; k++)
            for (int64_t p = 0; p < positions; p++) {
                const float *x = dy[k] + (low * s->columns + p) * s->outputs;
                ends[k * positions + p] = e = list_channels(x, s->outputs, (int32_t)(part * sizeof(float)), e);
            }
        for (int64_t r = l->runs - 1; r >= 0; r--) /* backwards, so that a result's terms come in the order of positions */
            for (int64_t t = l->parts - 1; t >= 0; t--) {
                const float *b = runs + (r * l->parts + t) * s->outputs * part;
                const sum add = sums[vectors_of(l, t)];
                const mask *last = t == l->parts - 1 ? &end : &whole;
                const entry *from = list, *const *to = ends;
                for (int64_t k = 0; k < n; k++)
                    for (int64_t i = low; i < low + rows; i++) {
                        float *c = padded + k * far + i * line + begin_of(s, r) + t * part;
                        for (int64_t j = 0; j < s->columns; j++, c += step, from = *to++)
                            if (from < *to) add(from, *to, b, c, last);
                    }
            }
    }
}

/* -- the calls ------------------------------------------------------------------------------------------------- */
/* Whether to pass over the zeros of an image, which has so many entries at so many positions. */
static int is_sparse(const float *x, int64_t positions, int64_t channels) {
    return (count_nonzero(x, positions * channels) + positions) * 10 < positions * channels * FEW;
}

static int64_t list_bytes(const shape *s, int64_t n) { /* of spread */
    const int64_t positions = n * rows_at_once(s, s->outputs) * s->columns;
    return positions * (s->outputs * sizeof(entry) + sizeof(entry *)) + (SPARE + 16) * sizeof(entry);
}

/* Bytes of room that convolve and spread_back need. */
int64_t convolve_room(const shape *s, int64_t n) {
    const shape t = turned(s);
    const layout l = layout_of(&t, MOST);
    const int64_t at_once = images_at_once(&t, t.outputs, n);
    const int64_t panels = s->kh * s->kw * s->channels * parts_of(s->outputs, WIDTH) * WIDTH;
    const int64_t runs = l.runs * l.parts * t.outputs * l.width * LANES;
    const int64_t images = at_once * most(padded_size(s), padded_size(&t)) + 4 * LANES;
    return (panels + runs + images) * sizeof(float) + list_bytes(&t, at_once) + 2 * at_once * sizeof(float *) + 512;
}

static char *take(char **room, int64_t bytes) {
    char *p = up(*room);
    *room = p + bytes;
    return p;
}

/* x, n, filter, whether it is that of the images' gradient, y, shape, room: at stride 1 both loops suit */
int convolve(const word *w) {
    const int64_t n = w[1].i, turn = w[3].i;
    const shape s = *(const shape *)w[5].p, t = turned(&s);
    const layout l = layout_of(&t, MOST);
    char *room = w[6].p;
    const float *f = w[2].p;
    const int64_t taps = s.kh * s.kw, positions = s.height * s.width, size = positions * s.channels;
    const int64_t result = s.rows * s.columns * s.outputs, at_once = images_at_once(&t, t.outputs, n);
    float *panels = (float *)take(&room, taps * s.channels * parts_of(s.outputs, WIDTH) * WIDTH * sizeof(float));
    float *runs = (float *)take(&room, l.runs * l.parts * t.outputs * l.width * LANES * sizeof(float));
    const int64_t here = padded_size(&s), there = padded_size(&t), far = most(here, there);
    float *padded = (float *)take(&room, (at_once * far + 4 * LANES) * sizeof(float));
    float **from = (float **)take(&room, 2 * at_once * sizeof(float *)), **to = from + at_once;
    entry *list = (entry *)take(&room, (at_once * rows_at_once(&t, t.outputs) * t.columns * t.outputs + SPARE) * sizeof(entry));
    const entry **ends = (const entry **)take(&room, 0);
    const int may = s.sh == 1 && s.sw == 1 && is_finite(f, taps * s.channels * s.outputs);
    int packed = 0;
    for (int64_t first = 0; first < n; first += at_once) {
        const int64_t count = least(at_once, n - first);
        for (int sparse = 0; sparse < 2; sparse++) {
            int64_t some = 0;
            for (int64_t k = first; k < first + count; k++) {
                float *x = (float *)w[0].p + k * size;
                if ((may && is_sparse(x, positions, s.channels)) != sparse) continue;
                from[some] = x;
                to[some++] = (float *)w[4].p + k * result;
            }
            if (!some) continue;
            if (!(packed >> sparse & 1)) {
                if (sparse) pack_runs(&t, &l, f, !turn, runs);
                else pack_panels(&s, f, turn, panels);
                packed |= 1 << sparse;
            }
            memset(padded, 0, some * far * sizeof(float));
            if (sparse) {
                spread(&t, &l, some, (const float *const *)from, runs, 0, padded, far, list, ends);
                for (int64_t k = 0; k < some; k++) copy_image(&t, to[k], padded + k * far, 0);
            } else {
                for (int64_t k = 0; k < some; k++) copy_image(&s, from[k], padded + k * far, 1);
                gather_windows(&s, some, padded, far, panels, to);
            }
        }
    }
    return OK;
}

/* dy, n, filter, dx, shape, room: the gradient to the images at any stride */
int convolve_back(const word *w) {
    const int64_t n = w[1].i;
    const shape s = *(const shape *)w[4].p;
    const layout l = layout_of(&s, MOST);
    char *room = w[5].p;
    const float *f = w[2].p;
    const int64_t flow = s.rows * s.columns * s.outputs, image = s.height * s.width * s.channels;
    const int64_t at_once = images_at_once(&s, s.outputs, n), far = padded_size(&s);
    float *runs = (float *)take(&room, l.runs * l.parts * s.outputs * l.width * LANES * sizeof(float));
    float *padded = (float *)take(&room, (at_once * far + 4 * LANES) * sizeof(float));
    const float **from = (const float **)take(&room, at_once * sizeof(float *));
    float **to = (float **)take(&room, at_once * sizeof(float *));
    entry *list = (entry *)take(&room, (at_once * rows_at_once(&s, s.outputs) * s.columns * s.outputs + SPARE) * sizeof(entry));
    const entry **ends = (const entry **)take(&room, 0);
    const int may = is_finite(f, s.kh * s.kw * s.channels * s.outputs);
    pack_runs(&s, &l, f, 0, runs);
    for (int64_t first = 0; first < n; first += at_once) {
        const int64_t count = least(at_once, n - first);
        float *dx = (float *)w[3].p + first * image;
        if (down(&s) - s.top < s.height || across(&s) - s.left < s.width) /* no window reaches the rest */
            memset(dx, 0, count * image * sizeof(float));
        for (int dense = 0; dense < 2; dense++) {
            int64_t some = 0;
            for (int64_t k = 0; k < count; k++) {
                const float *dy = (const float *)w[0].p + (first + k) * flow;
                if ((may && is_sparse(dy, s.rows * s.columns, s.outputs)) == dense) continue;
                from[some] = dy;
                to[some++] = dx + k * image;
            }
            memset(padded, 0, some * far * sizeof(float));
            spread(&s, &l, some, from, runs, dense, padded, far, list, ends);
            for (int64_t k = 0; k < some; k++) copy_image(&s, to[k], padded + k * far, 0);
        }
    }
    return OK;
}
int64_t convolve_back_room(const shape *s, int64_t n) {
    const layout l = layout_of(s, MOST);
    const int64_t at_once = images_at_once(s, s->outputs, n);
    const int64_t floats = l.runs * l.parts * s->outputs * l.width * LANES + at_once * padded_size(s) + 4 * LANES;
    return floats * sizeof(float) + list_bytes(s, at_once) + 2 * at_once * sizeof(float *) + 512;
}

/* -- summing --------------------------------------------------------------------------------------------------- */
/* How windows lie in what the filter's gradient is summed over: as they are, or with their rows side by side. */
typedef struct {
    layout l;
    int stacked;
    int64_t size, line, step, pitch; /* floats of an image, from a row of windows, a window, an output to the next */
} ground;
static ground ground_of(const shape *s, int64_t limit) {
    const int64_t run = s->kw * s->channels, wide = across(s);
    ground g;
    g.l = layout_of(s, limit);
    g.stacked = s->dw == 1 && s->kh > 1 && run < SHORT;
    if (g.stacked) g.l = split(1, s->kh * run, limit);
    g.step = s->sw * s->channels * (g.stacked ? s->kh : 1);
    g.line = g.stacked ? wide * s->kh * s->channels : s->sh * wide * s->channels;
    g.size = g.stacked ? s->rows * g.line : padded_size(s);
    g.pitch = g.l.runs * g.l.vectors * LANES;
    return g;
}

/* Windows' rows side by side: out[i, column, row of the window, channel]; zeros stand in the padding already. */
static void stack_rows(const shape *s, const float *x, float *out) {
    const int64_t wide = across(s), n = least(s->width, wide - s->left), c = s->channels;
    for (int64_t i = 0; i < s->rows; i++)
        for (int64_t a = 0; a < s->kh; a++) {
            const int64_t row = i * s->sh + a * s->dh - s->top;
            if (row < 0 || row >= s->height) continue;
            const float *from = x + row * s->width * c;
            float *to = out + ((i * wide + s->left) * s->kh + a) * c;
            for (int64_t j = 0; j < n; j++, from += c, to += s->kh * c)
                for (int64_t k = 0; k < c; k++) to[k] = from[k];
        }
}

/* Appends to the lists of all channels what of their positions is not zero. */
static void list_positions(const float *d, int64_t n, int64_t channels, const int32_t *at, entry **ends) {
    int64_t i = 0;
#if defined(__AVX2__)
    for (; i + 8 <= channels; i += 8)
        for (int64_t p = 0; p < n; p += 8) {
            const __m256i to = _mm256_loadu_si256((const __m256i *)(at + p));
            __m256 x[8], any = _mm256_setzero_ps();
            for (int l = 0; l < 8; l++) {
                x[l] = p + l < n ? _mm256_loadu_ps(d + (p + l) * channels + i) : _mm256_setzero_ps();
                any = _mm256_or_ps(any, x[l]);
            }
            if (_mm256_testz_si256(_mm256_castps_si256(any), _mm256_castps_si256(any))) continue;
            turn(x);
            for (int l = 0; l < 8; l++) ends[i + l] = keep(ends[i + l], x[l], to);
        }
#endif
    for (; i < channels; i++)
        for (int64_t p = 0; p < n; p++)
            if (d[p * channels + i] != 0) *ends[i]++ = (entry){at[p], d[p * channels + i]};
}

/* x, dy, n, df, shape, room */
int sum_windows(const word *w) {
    const int64_t n = w[2].i;
    const shape s = *(const shape *)w[4].p;
    const ground g = ground_of(&s, MOST), h = ground_of(&s, CHUNK);
    const layout *l = &g.l;
    const int64_t positions = s.rows * s.columns, at_once = images_at_once(&s, s.outputs, n);
    const int64_t high = rows_at_once(&s, s.outputs), listed = at_once * high * s.columns, spaced = listed + SPARE;
    char *room = w[5].p;
    float *total = (float *)take(&room, s.outputs * g.pitch * sizeof(float));
    float *x = (float *)take(&room, (at_once * g.size + (MOST + 1) * LANES) * sizeof(float));
    int32_t *at = (int32_t *)take(&room, (listed + 8) * sizeof(int32_t));
    entry *lists = (entry *)take(&room, s.outputs * spaced * sizeof(entry));
    entry **ends = (entry **)take(&room, 0);
    const mask whole = first_lanes(LANES);
    memset(total, 0, s.outputs * g.pitch * sizeof(float));
    memset(x, 0, (at_once * g.size + (MOST + 1) * LANES) * sizeof(float));
    for (int64_t first = 0; first < n; first += at_once) {
        const int64_t count = least(at_once, n - first);
        for (int64_t k = 0; k < count; k++) {
            float *image = (float *)w[0].p + (first + k) * s.height * s.width * s.channels;
            if (g.stacked) stack_rows(&s, image, x + k * g.size);
            else copy_image(&s, image, x + k * g.size, 1);
        }
        const int finite = is_finite(x, count * g.size);
        for (int64_t low = 0; low < s.rows; low += high) {
            const int64_t rows = least(high, s.rows - low), here = count * rows * s.columns;
            const float *d = (const float *)w[1].p + (first * positions + low * s.columns) * s.outputs;
            int32_t *to = at;
            for (int64_t k = 0; k < count; k++)
                for (int64_t i = low; i < low + rows; i++)
                    for (int64_t j = 0; j < s.columns; j++)
                        *to++ = (int32_t)((k * g.size + i * g.line + j * g.step) * sizeof(float));
            if (finite && count_nonzero(d, here * s.outputs) * 10 < here * s.outputs * FEW_FLOWS) {
                for (int64_t o = 0; o < s.outputs; o++) ends[o] = lists + o * spaced;
                list_positions(d, here, s.outputs, at, ends);
                for (int64_t o = 0; o < s.outputs; o++)
                    for (int64_t r = 0; r < l->runs; r++)
                        for (int64_t t = 0; t < l->parts; t++) {
                            const int64_t part = t * l->width * LANES;
                            const float *b = x + (g.stacked ? 0 : begin_of(&s, r)) + part;
                            float *c = total + o * g.pitch + r * l->vectors * LANES + part;
                            sums[vectors_of(l, t)](lists + o * spaced, ends[o], b, c, &whole);
                        }
                continue;
            }
            for (int64_t r = 0; r < h.l.runs; r++)
                for (int64_t t = 0; t < h.l.parts; t++)
                    for (int64_t o = 0, four; o < s.outputs; o += four ? 4 : 1) {
                        const int64_t part = t * h.l.width * LANES;
                        const float *b = x + (g.stacked ? 0 : begin_of(&s, r)) + part;
                        float *c = total + o * g.pitch + r * l->vectors * LANES + part;
                        four = s.outputs - o >= 4;
                        dense_sums[four][vectors_of(&h.l, t)](here, at, b, d + o, s.outputs, 1, c, g.pitch, &whole);
                    }
        }
    }
    for (int64_t r = 0; r < l->runs; r++) {
        const float *from = total + r * l->vectors * LANES;
        float *df = (float *)w[3].p + r * l->run * s.outputs;
        if (!g.stacked) {
            transpose(from, g.pitch, s.outputs, l->run, df, s.outputs);
            continue;
        }
        for (int64_t b = 0; b < s.kw; b++)
            for (int64_t a = 0; a < s.kh; a++)
                transpose(from + (b * s.kh + a) * s.channels, g.pitch, s.outputs, s.channels,
                          df + (a * s.kw + b) * s.channels * s.outputs, s.outputs);
    }
    return OK;
}
int64_t sum_windows_room(const shape *s, int64_t n) {
    const ground g = ground_of(s, MOST);
    const int64_t at_once = images_at_once(s, s->outputs, n), listed = at_once * rows_at_once(s, s->outputs) * s->columns;
    const int64_t floats = s->outputs * g.pitch + at_once * g.size + (MOST + 1) * LANES + listed + 8;
    return floats * sizeof(float) + s->outputs * ((listed + SPARE) * sizeof(entry) + sizeof(entry *)) + 512;
}

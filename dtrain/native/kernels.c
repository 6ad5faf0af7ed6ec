/* The kernels that do not depend on the graph, and what runs a list of them. */
#include "kernels.h"

#include <sched.h>
#include <time.h>

typedef struct {
    kernel f;
    const word *a;
} call;

/* Numbers below 1e-38 as zeros: weights of pixels that are never lit decay to them, and a processor takes a hundred
 * times as long over each. Returns what the mode was; set to that afterwards, for NumPy's sake. */
#if defined(__x86_64__)
#include <immintrin.h>
static unsigned flush_tiny(void) {
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
    return mode;
}
static void set_mode(unsigned mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
static uint64_t flush_tiny(void) {
    uint64_t mode;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
    __asm__ __volatile__("msr fpcr, %0" ::"r"(mode | (1 << 24)));
    return mode;
}
static void set_mode(uint64_t mode) { __asm__ __volatile__("msr fpcr, %0" ::"r"(mode)); }
#else
static int flush_tiny(void) { return 0; }
static void set_mode(int mode) { (void)mode; }
#endif

/* Run calls first..last-1; returns where it stopped, which is last if all went well, and why in *status. */
int64_t run(const call *calls, int64_t first, int64_t last, volatile int64_t *position, int64_t offset,
            int64_t *status) {
    const __auto_type mode = flush_tiny();
    int64_t i = first;
    for (*status = OK; i < last; i++) {
        *position = offset + i;
        *status = calls[i].f(calls[i].a);
        if (*status != OK) break;
    }
    set_mode(mode);
    return i;
}

/* What each of several steps is fed, or gives: size bytes of buffer, and where they lie for the first step. */
typedef struct {
    char *buffer, *rows;
    int64_t size;
} transfer;

/* The list several times over. step, call: where it is; a call begins where the one before stopped. It ends behind
 * a step in which *until is not 0. */
typedef struct {
    int64_t steps, step, call, calls, feeds, fetches;
    const transfer *transfers; /* those of feeds first */
    const float *until;
    volatile int64_t *position, *number; /* number: counts the steps */
} loop;

/* Returns the status of the call that stopped it, OK at its end. */
int64_t run_steps(const call *calls, loop *l) {
    const __auto_type mode = flush_tiny();
    int64_t status = OK;
    while (l->step < l->steps) {
        const transfer *t = l->transfers;
        if (!l->call) {
            *l->number += l->step > 0; /* the first was counted before */
            for (int64_t i = 0; i < l->feeds; i++, t++) memcpy(t->buffer, t->rows + l->step * t->size, t->size);
        }
        for (; l->call < l->calls; l->call++) {
            *l->position = l->call;
            status = calls[l->call].f(calls[l->call].a);
            if (status != OK) goto stop;
        }
        t = l->transfers + l->feeds;
        for (int64_t i = 0; i < l->fetches; i++, t++) memcpy(t->rows + l->step * t->size, t->buffer, t->size);
        l->call = 0;
        l->step++;
        if (*l->until != 0) break;
    }
stop:
    set_mode(mode);
    return status;
}

/* c = a @ b through the BLAS that NumPy brings.
 * function, transposed a, transposed b, m, n, k, a, columns of a, b, columns of b, c */
#define GEMM(NAME, INTEGER, REAL)                                                                               \
    int NAME(const word *w) {                                                                                   \
        typedef void (*gemm)(int, int, int, INTEGER, INTEGER, INTEGER, REAL, const REAL *, INTEGER,             \
                             const REAL *, INTEGER, REAL, REAL *, INTEGER);                                     \
        ((gemm)w[0].p)(101, w[1].i ? 112 : 111, w[2].i ? 112 : 111, (INTEGER)w[3].i, (INTEGER)w[4].i,           \
                       (INTEGER)w[5].i, 1, w[6].p, (INTEGER)w[7].i, w[8].p, (INTEGER)w[9].i, 0, w[10].p,        \
                       (INTEGER)w[4].i);                                                                        \
        return OK;                                                                                              \
    }
GEMM(gemm_float_64, int64_t, float)
GEMM(gemm_double_64, int64_t, double)
GEMM(gemm_float_32, int32_t, float)
GEMM(gemm_double_32, int32_t, double)

#define MOVE_ROW(TYPE)                                                                                          \
    if (from_step == 0 && to_step == sizeof(TYPE)) {                                                            \
        const TYPE x = *(const TYPE *)from;                                                                     \
        for (int64_t i = 0; i < n; i++) ((TYPE *)to)[i] = x;                                                    \
    } else {                                                                                                    \
        for (int64_t i = 0; i < n; i++) *(TYPE *)(to + i * to_step) = *(const TYPE *)(from + i * from_step);    \
    }
/* axis: of each axis that is left its size, and the steps in bytes in both arrays */
static void move_axes(char *to, const char *from, int64_t itemsize, int64_t axes, const word *axis) {
    const int64_t n = axis[0].i, to_step = axis[1].i, from_step = axis[2].i;
    if (axes > 1) {
        for (int64_t i = 0; i < n; i++)
            move_axes(to + i * to_step, from + i * from_step, itemsize, axes - 1, axis + 3);
    } else if (to_step == itemsize && from_step == itemsize) {
        memmove(to, from, n * itemsize);
    } else if (itemsize == 1) {
        MOVE_ROW(uint8_t)
    } else if (itemsize == 2) {
        MOVE_ROW(uint16_t)
    } else if (itemsize == 4) {
        MOVE_ROW(uint32_t)
    } else {
        MOVE_ROW(uint64_t)
    }
}

/* destination, source, bytes of an entry, axes, and the three words of each */
int move(const word *w) {
    move_axes(w[0].p, w[1].p, w[2].i, w[3].i, w + 4);
    return OK;
}

/* table, its rows, bytes of a row, indices, bytes of an index, their number, out, whether to write past the caches.
 * Rows lie far apart in memory, so the next ones are asked for while one is copied. */
int gather(const word *w) {
    const char *table = w[0].p;
    const int64_t rows = w[1].i, size = w[2].i, itemsize = w[4].i, n = w[5].i;
    const void *indices = w[3].p;
    char *out = w[6].p;
    for (int64_t i = 0; i < n; i++)
        if ((uint64_t)index_at(indices, itemsize, i) >= (uint64_t)rows) return BAD_VALUE;
    const int64_t ahead = 4;
    for (int64_t i = 0; i < n; i++) {
        if (i + ahead < n) {
            const char *next = table + index_at(indices, itemsize, i + ahead) * size;
            for (int64_t at = 0; at < size; at += 64) __builtin_prefetch(next + at);
        }
        const char *row = table + index_at(indices, itemsize, i) * size;
        if (w[7].i) stream(out + i * size, row, size);
        else memcpy(out + i * size, row, size);
    }
    if (w[7].i) streamed();
    return OK;
}

/* where a table is lent to (its address, 0 for none, and its rows), and the rest as of gather */
int gather_lent(const word *w) {
    const int64_t *lent = w[0].p;
    if (!lent[0]) return BAD_VALUE;
    const word words[] = {{.i = lent[0]}, {.i = lent[1]}, w[1], w[2], w[3], w[4], w[5], w[6]};
    return gather(words);
}

/* The largest of a row, NaN where one is. */
INLINE float largest(const float *x, int64_t n) {
    float top = x[0];
    int nan = 0;
    if (n < 64) { /* what several lanes have takes longer to join */
        for (int64_t j = 1; j < n; j++) top = x[j] > top || x[j] != x[j] ? x[j] : top;
        return top;
    }
#pragma omp simd reduction(max : top) reduction(| : nan)
    for (int64_t j = 0; j < n; j++) {
        top = x[j] > top ? x[j] : top;
        nan |= x[j] != x[j];
    }
    return nan ? NAN : top;
}

/* out = the exponentials of x - top over their sum, which it returns; out may be x */
INLINE float softmax_row(const float *x, float top, int64_t n, float *out) {
    float sum = 0;
#pragma omp simd
    for (int64_t j = 0; j < n; j++) out[j] = exp_float(x[j] - top);
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) sum += out[j];
#pragma omp simd
    for (int64_t j = 0; j < n; j++) out[j] = out[j] / sum;
    return sum;
}

/* x, rows, columns, out, which may be x */
int softmax_float(const word *w) {
    const float *x = w[0].p;
    float *out = w[3].p;
    for (int64_t i = 0, n = w[2].i; i < w[1].i; i++, x += n, out += n) softmax_row(x, largest(x, n), n, out);
    return OK;
}
int log_softmax_float(const word *w) {
    const float *x = w[0].p;
    float *out = w[3].p;
    for (int64_t i = 0, n = w[2].i; i < w[1].i; i++, x += n, out += n) {
        const float top = largest(x, n);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < n; j++) sum += exp_float(x[j] - top);
        sum = log_float(sum);
#pragma omp simd
        for (int64_t j = 0; j < n; j++) out[j] = (x[j] - top) - sum;
    }
    return OK;
}

/* logits, rows, classes, labels, bytes of a label, losses out, gradients out */
int sparse_cross_entropy_float(const word *w) {
    const float *logits = w[0].p;
    const int64_t rows = w[1].i, classes = w[2].i, itemsize = w[4].i;
    float *loss = w[5].p, *grad = w[6].p;
    for (int64_t i = 0; i < rows; i++)
        if ((uint64_t)index_at(w[3].p, itemsize, i) >= (uint64_t)classes) return BAD_VALUE;
    for (int64_t i = 0; i < rows; i++) {
        const float *x = logits + i * classes;
        float *g = grad + i * classes;
        const int64_t label = index_at(w[3].p, itemsize, i);
        const float top = largest(x, classes), picked = x[label] - top;
        const float sum = softmax_row(x, top, classes, g);
        g[label] -= 1.0f;
        loss[i] = log_float(sum) - picked;
    }
    return OK;
}

/* logits, rows, classes, labels (probabilities), losses out, gradients out */
int dense_cross_entropy_float(const word *w) {
    const float *logits = w[0].p, *labels = w[3].p;
    const int64_t rows = w[1].i, classes = w[2].i;
    float *loss = w[4].p, *grad = w[5].p;
    for (int64_t i = 0; i < rows; i++) {
        const float *x = logits + i * classes, *t = labels + i * classes;
        float *g = grad + i * classes;
        float sum = 0, mass = 0, along = 0;
        const float top = largest(x, classes);
#pragma omp simd reduction(+ : sum, mass, along)
        for (int64_t j = 0; j < classes; j++) {
            const float y = x[j] - top, e = exp_float(y);
            g[j] = e;
            sum += e;
            mass += t[j];
            along += y * t[j];
        }
        const float scale = mass / sum;
#pragma omp simd
        for (int64_t j = 0; j < classes; j++) g[j] = g[j] * scale - t[j];
        loss[i] = log_float(sum) * mass - along;
    }
    return OK;
}

#define OF_NUMBERS(KIND) KIND(float) KIND(double) KIND(int32_t) KIND(int64_t) KIND(uint8_t)

/* x [outer, n, inner], the three, whether the smallest, out [outer, inner]: where the first of the largest entries is,
 * a NaN being larger than none */
#define ARG_EXTREME(T)                                                                                          \
    int arg_extreme_##T(const word *w) {                                                                        \
        const int64_t outer = w[1].i, n = w[2].i, inner = w[3].i;                                               \
        const int least = w[4].i;                                                                               \
        int64_t *out = w[5].p;                                                                                  \
        for (int64_t i = 0; i < outer * inner; i++) {                                                           \
            const T *x = (const T *)w[0].p + i / inner * n * inner + i % inner;                                 \
            int64_t best = 0;                                                                                   \
            T top = *x == *x ? *x : (T)(least ? INFINITY : -INFINITY);                                          \
            for (int64_t j = 1; j < n; j++)                                                                     \
                if (least ? x[j * inner] < top : x[j * inner] > top) top = x[j * inner], best = j;              \
            out[i] = best;                                                                                      \
        }                                                                                                       \
        return OK;                                                                                              \
    }
OF_NUMBERS(ARG_EXTREME)

/* positions [n, axes], n, axes, their sizes, out: the place of each in row-major order */
int flat_index_int64_t(const word *w) {
    const int64_t *at = w[0].p, axes = w[2].i, *sizes = w[3].p;
    int64_t *out = w[4].p;
    for (int64_t i = 0; i < w[1].i; i++) {
        out[i] = 0;
        for (int64_t a = 0; a < axes; a++, at++) {
            if ((uint64_t)*at >= (uint64_t)sizes[a]) return BAD_VALUE;
            out[i] = out[i] * sizes[a] + *at;
        }
    }
    return OK;
}

/* x [outer, n, inner], the three, whether without the entry itself, whether from the end, out */
#define CUMSUM(T)                                                                                               \
    int cumsum_##T(const word *w) {                                                                             \
        const int64_t outer = w[1].i, n = w[2].i, inner = w[3].i, exclusive = w[4].i;                           \
        const int64_t step = w[5].i ? -inner : inner, first = w[5].i ? (n - 1) * inner : 0;                     \
        for (int64_t o = 0; o < outer; o++) {                                                                   \
            const T *x = (const T *)w[0].p + o * n * inner + first;                                             \
            T *out = (T *)w[6].p + o * n * inner + first;                                                       \
            for (int64_t k = 0; k < n; k++, out += step) {                                                      \
                const T *before = out - step; /* k = 0 has none */                                              \
                if (k < exclusive) {                                                                            \
                    memset(out, 0, inner * sizeof(T));                                                          \
                    continue;                                                                                   \
                }                                                                                               \
                for (int64_t i = 0; i < inner; i++) out[i] = k == exclusive ? x[i] : before[i] + x[i];          \
                x += step;                                                                                      \
            }                                                                                                   \
        }                                                                                                       \
        return OK;                                                                                              \
    }
OF_NUMBERS(CUMSUM)

/* number of inputs, their addresses, entries, out: the sum of the inputs, from the first to the last */
#define SUM(NAME, REAL)                                                                                         \
    int NAME(const word *w) {                                                                                   \
        const int64_t count = w[0].i, n = w[2].i, piece = 4096;                                                 \
        REAL *const *in = w[1].p, *out = w[3].p;                                                                \
        for (int64_t at = 0; at < n; at += piece) {                                                             \
            const int64_t end = at + piece < n ? at + piece : n;                                                \
            _Pragma("omp simd") for (int64_t i = at; i < end; i++) out[i] = in[0][i] + in[1][i];                \
            for (int64_t k = 2; k < count; k++) {                                                               \
                const REAL *next = in[k];                                                                       \
                _Pragma("omp simd") for (int64_t i = at; i < end; i++) out[i] += next[i];                       \
            }                                                                                                   \
        }                                                                                                       \
        return OK;                                                                                              \
    }
SUM(sum_float, float)
SUM(sum_double, double)

/* number of arrays, their addresses, their sizes, limit, out, bytes of out, whether out holds a verdict already:
 * 1 where an entry is NaN or beyond the limit, else 0.
 * Without its sign a number's bits are an integer that grows with it, and a NaN's are above all. From the last piece
 * to the first: what was written last is still in the cache, and what the update reads first then is. */
#define HAS_BAD(NAME, REAL, BITS)                                                                               \
    int NAME(const word *w) {                                                                                   \
        const REAL most = (REAL)w[3].d;                                                                         \
        const int64_t piece = 4096;                                                                             \
        BITS limit, top = 0;                                                                                    \
        memcpy(&limit, &most, sizeof limit);                                                                    \
        for (int64_t k = w[0].i - 1; k >= 0; k--) {                                                             \
            const BITS *x = ((BITS *const *)w[1].p)[k];                                                         \
            for (int64_t end = ((const int64_t *)w[2].p)[k]; end > 0; end -= piece) {                           \
                BITS high = 0;                                                                                  \
                _Pragma("omp simd reduction(max : high)")                                                       \
                for (int64_t i = end > piece ? end - piece : 0; i < end; i++) {                                 \
                    const BITS size = x[i] & (BITS)-1 >> 1;                                                     \
                    high = size > high ? size : high;                                                           \
                }                                                                                               \
                top = high > top ? high : top;                                                                  \
            }                                                                                                   \
        }                                                                                                       \
        if (w[6].i && top <= limit) return OK;                                                                  \
        if (w[5].i == 4) *(float *)w[4].p = top > limit;                                                        \
        else *(double *)w[4].p = top > limit;                                                                   \
        return OK;                                                                                              \
    }
HAS_BAD(has_bad_float, float, uint32_t)
HAS_BAD(has_bad_double, double, uint64_t)

/* the largest entry without its sign, a NaN where there is one */
static float largest_magnitude(const float *x, int64_t n) {
    int32_t top = 0;
    _Pragma("omp simd reduction(max : top)")
    for (int64_t i = 0; i < n; i++) {
        const int32_t size = as_bits(x[i]) & INT32_MAX;
        top = size > top ? size : top;
    }
    return as_float(top);
}

/* one factor, its entries, the other, its entries, rows, out: what a sum over the rows of their products is at most */
int product_bound(const word *w) {
    *(float *)w[5].p = largest_magnitude(w[0].p, w[1].i) * largest_magnitude(w[2].p, w[3].i) * (float)w[4].d;
    return OK;
}

/* a verdict, 0 where all is well */
int stop_if_bad_float(const word *w) { return *(const float *)w[0].p == 0 ? OK : NOT_FINITE; }
int stop_if_bad_double(const word *w) { return *(const double *)w[0].p == 0 ? OK : NOT_FINITE; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

INLINE void pause_core(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Low bits of a rank's counter of meetings: see comm/shared.py. */
enum { TAG_BITS = 20 };

/* own counter, the others' counters, how many, whether this one waits, spins, patience in seconds, seconds waited,
 * collectives come to, what the meeting is for.
 * A barrier: count up the own word and wait until the others' have followed. Its low bits say what the meeting is for;
 * with another rank in a meeting for something else it returns ELSEWHERE. Of two ranks the first to go on has seen the
 * other's word of this very meeting, so one of the two looks always. After some spins the core is handed over; after
 * the patience it returns WAITING, to be called again. */
int meet(const word *w) {
    volatile int64_t *mine = w[0].p, *const *others = w[1].p;
    int64_t *come = w[3].p;
    double *waited = w[6].p;
    const double begun = now();
    if (!*come) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        __atomic_store_n(mine, ((*mine >> TAG_BITS) + 1) << TAG_BITS | *(const int64_t *)w[8].p, __ATOMIC_RELEASE);
        *come = 1;
        ++*(int64_t *)w[7].p;
    }
    const int64_t here = *mine, count = here >> TAG_BITS;
    for (int64_t k = 0; k < w[2].i; k++) {
        int64_t spins = 0, there;
        while ((there = __atomic_load_n(others[k], __ATOMIC_ACQUIRE)) >> TAG_BITS < count) {
            if (++spins < w[4].i) {
                pause_core();
                continue;
            }
            sched_yield();
            if (!(spins & 63) && now() - begun > w[5].d) {
                *waited += now() - begun;
                return WAITING;
            }
        }
        if (there >> TAG_BITS == count && there != here) return ELSEWHERE;
    }
    *come = 0;
    *waited += now() - begun;
    return OK;
}

/* images [n, h, w, c], six numbers for each, the sizes, rows and columns of out, fill, whether smooth, the value beside,
 * out: see ops/warp.py */
#define WARP(T, REAL, FLOOR, NEAR, WHOLE)                                                                       \
    int warp_##T(const word *a) {                                                                               \
        const int64_t n = a[2].i, h = a[3].i, w = a[4].i, c = a[5].i, rows = a[6].i, columns = a[7].i;          \
        const int64_t fill = a[8].i, smooth = a[9].i;                                                           \
        const T beside = (T)a[10].d;                                                                            \
        T *out = a[11].p;                                                                                       \
        for (int64_t e = 0; e < n; e++) {                                                                       \
            const T *x = (const T *)a[0].p + e * h * w * c;                                                     \
            const REAL *m = (const REAL *)a[1].p + 6 * e;                                                       \
            if (rows == h && columns == w && m[0] == 1 && m[1] == 0 && m[2] == 0 && m[3] == 0 && m[4] == 1 && m[5] == 0) { \
                memcpy(out, x, h * w * c * sizeof(T)); /* as in every test */                                   \
                out += h * w * c;                                                                               \
                continue;                                                                                       \
            }                                                                                                   \
            if (!smooth && m[1] == 0 && m[3] == 0 && columns <= 4096) { /* neither turned nor slanted */          \
                int32_t from[4096];                                                                             \
                for (int64_t j = 0; j < columns; j++)                                                           \
                    from[j] = (int32_t)inside((int64_t)FLOOR(NEAR(m[0] * j + m[2]) + (REAL)0.5), w, fill);      \
                for (int64_t i = 0; i < rows; i++) {                                                            \
                    const int64_t y = inside((int64_t)FLOOR(NEAR(m[4] * i + m[5]) + (REAL)0.5), h, fill);       \
                    const T *line = x + (y < 0 ? 0 : y) * w * c;                                                \
                    for (int64_t j = 0; j < columns; j++)                                                       \
                        for (int64_t l = 0; l < c; l++) *out++ = y < 0 || from[j] < 0 ? beside : line[from[j] * c + l]; \
                }                                                                                               \
                continue;                                                                                       \
            }                                                                                                   \
            for (int64_t i = 0; i < rows; i++)                                                                  \
                for (int64_t j = 0; j < columns; j++) {                                                         \
                    const REAL across = NEAR(m[0] * j + m[1] * i + m[2]), down = NEAR(m[3] * j + m[4] * i + m[5]); \
                    if (!smooth) {                                                                              \
                        const int64_t k = inside((int64_t)FLOOR(across + (REAL)0.5), w, fill);                  \
                        const int64_t y = inside((int64_t)FLOOR(down + (REAL)0.5), h, fill);                    \
                        for (int64_t l = 0; l < c; l++) *out++ = k < 0 || y < 0 ? beside : x[(y * w + k) * c + l]; \
                        continue;                                                                               \
                    }                                                                                           \
                    const REAL left = FLOOR(across), top = FLOOR(down), s = across - left, t = down - top;      \
                    const int64_t k[2] = {inside((int64_t)left, w, fill), inside((int64_t)left + 1, w, fill)};  \
                    const int64_t y[2] = {inside((int64_t)top, h, fill), inside((int64_t)top + 1, h, fill)};    \
                    for (int64_t l = 0; l < c; l++) {                                                           \
                        REAL p[4];                                                                              \
                        for (int q = 0; q < 4; q++) {                                                           \
                            const int64_t r = y[q / 2], o = k[q % 2];                                           \
                            p[q] = r < 0 || o < 0 ? beside : x[(r * w + o) * c + l];                            \
                        }                                                                                       \
                        const REAL mean = (p[0] * (1 - s) + p[1] * s) * (1 - t) + (p[2] * (1 - s) + p[3] * s) * t; \
                        *out++ = (T)(WHOLE ? FLOOR(mean + (REAL)0.5) : mean);                                   \
                    }                                                                                           \
                }                                                                                               \
        }                                                                                                       \
        return OK;                                                                                              \
    }
WARP(float, float, floorf, near_float, 0)
WARP(double, double, floor, near_double, 0)
WARP(uint8_t, float, floorf, near_float, 1)

/* Philox4x64-10 (Salmon et al. 2011) as NumPy has it: four random words for each value of the counter. */
static void philox(uint64_t *x, uint64_t key0, uint64_t key1) {
    for (int round = 0; round < 10; round++) {
        const __uint128_t a = (__uint128_t)0xD2E7470EE14C6C93ull * x[0], b = (__uint128_t)0xCA5A826395121157ull * x[2];
        x[0] = (uint64_t)(b >> 64) ^ x[1] ^ key0;
        x[1] = (uint64_t)b;
        x[2] = (uint64_t)(a >> 64) ^ x[3] ^ key1;
        x[3] = (uint64_t)a;
        key0 += 0x9E3779B97F4A7C15ull;
        key1 += 0xBB67AE8584CAA73Bull;
    }
}

/* keep, counter of draws (and whether this run drew), graph's seed, operation's, number of the first entry, entries, out:
 * what ops/dropout.py draws, to the bit */
int dropout_float(const word *w) {
    const double share = *(const float *)w[0].p;
    int64_t *counter = w[1].p;
    const int64_t start = w[4].i, n = w[5].i;
    float *out = w[6].p;
    if (!(share > 0 && share <= 1)) return BAD_VALUE;
    const float kept = (float)(1 / share);
    counter[1] = share != 1;
    if (share == 1) {
        for (int64_t i = 0; i < n; i++) out[i] = 1;
        return OK;
    }
    const int64_t rounded = (int64_t)rint(share * 65536), limit = rounded < 1 ? 1 : rounded;
    const int bytes = limit % 256 == 0 && limit < 65536;
    const int64_t each = bytes ? 32 : 16;
    for (int64_t block = start / each; block * each < start + n; block++) {
        uint64_t x[4] = {(uint64_t)block + 1, 0, (uint64_t)counter[0], 0};
        float mask[32];
        philox(x, (uint64_t)w[2].i, (uint64_t)w[3].i);
        for (int64_t j = 0; j < each; j++) {
            const uint64_t bits = bytes ? x[j / 8] >> j % 8 * 8 & 255 : x[j / 4] >> j % 4 * 16 & 65535;
            mask[j] = (int64_t)bits < (bytes ? limit >> 8 : limit) ? kept : 0;
        }
        const int64_t low = block * each < start ? start - block * each : 0;
        const int64_t high = (block + 1) * each > start + n ? start + n - block * each : each;
        memcpy(out + block * each + low - start, mask + low, (high - low) * sizeof(float));
    }
    counter[0]++;
    return OK;
}

/* Matrix products of floats, for the sizes of a step and for operands that are mostly zeros.
 *
 * Each entry is a sum of fused multiply-adds over k from first to last, whichever way below computes it, so its bits
 * depend neither on the other rows (the batch, the number of ranks) nor on the way that was chosen.
 *
 * Dense: a block of the result, as many rows as there are registers for and two vectors wide (one, where the columns
 * are few), stays in registers while k runs: each step loads the vectors of b and multiplies them by one number of a
 * for each row. Nothing is copied but what is stored across.
 *
 * Sparse: four fifths of an image are black, and a ReLU leaves half of its outputs at zero; what a zero is multiplied
 * by adds nothing. The numbers of a row of a that are not zero are put in a list, and a strip of the result, eight
 * vectors wide, is the sum over that list. Where b is not finite (0 times infinity is not 0) the way is dense.
 *
 * What is stored is the sum + 0: of products too small for a float one way may come to -0 and the other to 0.
 */
#include "lists.h"

/* Rows of a dense block that is one vector wide, at most. */
#define TALL 14
/* Columns of a dense block and of a sparse strip; of the depth, so much at a time as keeps a strip's b in the L1 cache. */
#define WIDTH (2 * LANES)
#define STRIP (8 * LANES)
#define PIECE (1024 / LANES)
/* Of eight numbers so many may be other than zero for the sparse way to pay; where there are more, calls until the next
 * look. */
#define DENSITY 5
#define PAUSE 32

/* Whether this processor has the vectors that make it worth while. */
int product_is_fast(void) { return LANES > 4; }
int product_lanes(void) { return LANES; }

typedef struct {
    const float *p;
    int64_t row, depth; /* floats from one row, or one k, to the next */
} matrix;

/* c[i, 0..V * LANES) (+)= sum over k of a[i, k] * b[k, 0..V * LANES) for i < N */
#define BLOCK(N, V)                                                                                             \
    static void block_##V##_##N(int64_t depth, matrix a, const float *b, int64_t bk, float *c, int64_t ci, int more) { \
        vector sum[N][V];                                                                                       \
        _Pragma("GCC unroll 16") for (int i = 0; i < N; i++)                                                    \
            _Pragma("GCC unroll 2") for (int v = 0; v < V; v++)                                                 \
                sum[i][v] = more ? *(vector *)(c + i * ci + v * LANES) : (vector){0};                           \
        const float *row[(N + 2) / 3]; /* of three rows: more steps of a row than that are no addressing mode */ \
        for (int g = 0; g < (N + 2) / 3; g++) row[g] = a.p + 3 * g * a.row;                                     \
        for (int64_t k = 0; k < depth; k++, b += bk) {                                                          \
            vector y[V];                                                                                        \
            _Pragma("GCC unroll 2") for (int v = 0; v < V; v++) y[v] = *(const vector *)(b + v * LANES);        \
            _Pragma("GCC unroll 16") for (int i = 0; i < N; i++) {                                              \
                const float s = row[i / 3][i % 3 * a.row];                                                      \
                _Pragma("GCC unroll 2") for (int v = 0; v < V; v++) sum[i][v] = add_product(sum[i][v], s, y[v]); \
            }                                                                                                   \
            _Pragma("GCC unroll 8") for (int g = 0; g < (N + 2) / 3; g++) row[g] += a.depth;                    \
        }                                                                                                       \
        _Pragma("GCC unroll 16") for (int i = 0; i < N; i++)                                                    \
            _Pragma("GCC unroll 2") for (int v = 0; v < V; v++)                                                 \
                *(vector *)(c + i * ci + v * LANES) = sum[i][v] + 0.0f;                                         \
    }
#define BLOCKS(V)                                                                                               \
    BLOCK(1, V) BLOCK(2, V) BLOCK(3, V) BLOCK(4, V) BLOCK(5, V) BLOCK(6, V) BLOCK(7, V)                         \
    BLOCK(8, V) BLOCK(9, V) BLOCK(10, V) BLOCK(11, V) BLOCK(12, V) BLOCK(13, V) BLOCK(14, V)
#define NAMES(V)                                                                                                \
    {0, block_##V##_1, block_##V##_2, block_##V##_3, block_##V##_4, block_##V##_5, block_##V##_6, block_##V##_7, \
     block_##V##_8, block_##V##_9, block_##V##_10, block_##V##_11, block_##V##_12, block_##V##_13, block_##V##_14}
BLOCKS(1)
BLOCKS(2)

typedef void (*block)(int64_t, matrix, const float *, int64_t, float *, int64_t, int);
static const block blocks[2][TALL + 1] = {NAMES(1), NAMES(2)};

/* c[0..N * LANES) (+)= sum over the list of x * b[at, 0..N * LANES) */
#define SUM(N)                                                                                                  \
    static void sum_##N(const entry *e, const entry *end, const float *b, float *c, int more) {                 \
        vector sum[N];                                                                                          \
        for (int v = 0; v < N; v++) sum[v] = more ? *(vector *)(c + v * LANES) : (vector){0};                   \
        for (; e < end; e++) {                                                                                  \
            const float *y = (const float *)((const char *)b + e->at);                                          \
            _Pragma("GCC unroll 8") for (int v = 0; v < N; v++)                                                 \
                sum[v] = add_product(sum[v], e->x, *(vector *)(y + v * LANES));                                 \
        }                                                                                                       \
        for (int v = 0; v < N; v++) *(vector *)(c + v * LANES) = sum[v] + 0.0f;                                 \
    }
SUM(1) SUM(2) SUM(3) SUM(4) SUM(5) SUM(6) SUM(7) SUM(8)

typedef void (*sum)(const entry *, const entry *, const float *, float *, int);
static const sum sums[] = {0, sum_1, sum_2, sum_3, sum_4, sum_5, sum_6, sum_7, sum_8};

/* b[0..depth, 0..n), whichever way it is stored, as rows of `width` floats with zeros behind the n. Returns whether all
 * are finite. */
static int copy_panel(matrix b, int64_t column, int64_t n, int64_t depth, float *out, int64_t width) {
    int32_t bad = 0;
    int64_t i = 0, whole = 0; /* columns that are done, but for rows from `whole` on */
    if (n < width) memset(out, 0, depth * width * sizeof(float));
#if defined(__AVX2__)
    __m256i found = _mm256_setzero_si256();
    if (column == 1) {
        whole = depth;
        for (int64_t k = 0; k < depth; k++)
            for (i = 0; i + 8 <= n; i += 8) {
                const __m256 x = _mm256_loadu_ps(b.p + k * b.depth + i);
                found = _mm256_or_si256(found, not_finite(x));
                _mm256_storeu_ps(out + k * width + i, x);
            }
    } else {
        whole = depth / 8 * 8;
        for (; i < n; i += 8) /* in squares of eight, the last with zeros */
            for (int64_t k = 0; k < whole; k += 8) {
                __m256 x[8];
                for (int l = 0; l < 8; l++) {
                    x[l] = i + l < n ? _mm256_loadu_ps(b.p + k + (i + l) * column) : _mm256_setzero_ps();
                    found = _mm256_or_si256(found, not_finite(x[l]));
                }
                turn(x);
                for (int l = 0; l < 8; l++) _mm256_storeu_ps(out + (k + l) * width + i, x[l]);
            }
    }
    bad = !_mm256_testz_si256(found, found);
#endif
    for (int64_t k = 0; k < depth; k++)
        for (int64_t l = k < whole ? i : 0; l < n; l++) {
            const float x = b.p[k * b.depth + l * column];
            out[k * width + l] = x;
            bad |= (as_bits(x) & 0x7f800000) == 0x7f800000;
        }
    return !bad;
}

static void copy_out(const float *from, float *c, int64_t ci, int64_t rows, int64_t n) {
    for (int64_t i = 0; i < rows; i++) memcpy(c + i * ci, from + i * WIDTH, n * sizeof(float));
}

/* c (+)= a * b, of columns that lie side by side or fewer than WIDTH. room: floats for depth * (WIDTH + ROWS) */
static void strips(int64_t rows, int64_t columns, int64_t depth, matrix a, matrix b, float *c, int64_t ci, int more,
                   float *room) {
    const int64_t n = columns < WIDTH ? columns : WIDTH, v = n <= LANES ? 1 : 2;
    const int64_t most = v == 1 ? TALL : ROWS, parts = (rows + most - 1) / most;
    float *turned = room + depth * WIDTH;
    for (int64_t t = 0; t < parts; t++) {
        const int64_t low = rows * t / parts, count = rows * (t + 1) / parts - low;
        matrix x = {a.p + low * a.row, a.row, a.depth};
        if (a.row == 1 && a.depth > WIDTH && depth > 1 && columns > WIDTH) { /* each number would lie in a page of its own */
            if (count == ROWS)
                for (int64_t k = 0; k < depth; k++) memcpy(turned + k * ROWS, x.p + k * x.depth, ROWS * 4);
            else
                for (int64_t k = 0; k < depth; k++)
                    for (int64_t i = 0; i < count; i++) turned[k * ROWS + i] = x.p[i + k * x.depth];
            x = (matrix){turned, 1, ROWS};
        }
        for (int64_t j = 0; j < columns; j += WIDTH) {
            float *out = c + low * ci + j, edge[TALL * WIDTH];
            if (n == v * LANES) {
                blocks[v - 1][count](depth, x, b.p + j, b.depth, out, ci, more);
                continue;
            }
            if (more)
                for (int64_t i = 0; i < count; i++) memcpy(edge + i * WIDTH, out + i * ci, n * sizeof(float));
            blocks[v - 1][count](depth, x, b.p, b.depth, edge, WIDTH, more);
            copy_out(edge, out, ci, count, n);
        }
    }
}

/* room: as in strips */
static void dense(int64_t rows, int64_t columns, int64_t depth, matrix a, matrix b, int64_t column, float *c, int64_t ci,
                  int more, float *room) {
    int64_t first = column == 1 ? columns / WIDTH * WIDTH : 0; /* columns that are read where they lie */
    if (first) strips(rows, first, depth, a, b, c, ci, more, room);
    for (; first < columns; first += WIDTH) {
        const int64_t n = columns - first < WIDTH ? columns - first : WIDTH, width = n <= LANES ? LANES : WIDTH;
        const matrix y = {b.p + first * column, 0, b.depth};
        /* Where rows lie, what a vector reads behind their n columns is a later row's and is not stored: but for the
         * last rows, behind which there is nothing, none is copied. */
        int64_t whole = column == 1 && b.depth >= n ? depth - (width - n + b.depth - 1) / b.depth : 0;
        if (whole < 0) whole = 0;
        if (whole) strips(rows, n, whole, a, y, c + first, ci, more, room);
        if (whole == depth) continue;
        const matrix left = {a.p + whole * a.depth, a.row, a.depth};
        copy_panel((matrix){y.p + whole * b.depth, 0, b.depth}, column, n, depth - whole, room, width);
        strips(rows, n, depth - whole, left, (matrix){room, 0, width}, c + first, ci, more || whole, room);
    }
}

/* Part of the depth of a product that lies in one place: n rows of b, and what they are multiplied by. */
typedef struct {
    matrix a, b;
    int64_t n;
} portion;

/* Appends a portion's numbers to the lists of all rows of a, which end at ends; its b lies `base` rows into the panel. */
static void list(int64_t rows, portion p, int64_t base, entry **ends) {
    const int32_t step = STRIP * sizeof(float);
    int64_t i = 0;
#if defined(__AVX2__)
    const __m256i eight = _mm256_set1_epi32(8 * step);
    const __m256i first = _mm256_mullo_epi32(
        _mm256_add_epi32(_mm256_set1_epi32((int32_t)base), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
        _mm256_set1_epi32(step));
    if (p.a.row == 1)
        for (; i + 8 <= rows; i += 8) {
            __m256i at = first;
            for (int64_t k = 0; k < p.n; k += 8, at = _mm256_add_epi32(at, eight)) {
                __m256 x[8], any = _mm256_setzero_ps();
                for (int l = 0; l < 8; l++) {
                    x[l] = k + l < p.n ? _mm256_loadu_ps(p.a.p + i + (k + l) * p.a.depth) : _mm256_setzero_ps();
                    any = _mm256_or_ps(any, x[l]);
                }
                if (_mm256_testz_si256(_mm256_castps_si256(any), _mm256_castps_si256(any))) continue;
                turn(x);
                for (int l = 0; l < 8; l++) ends[i + l] = keep(ends[i + l], x[l], at);
            }
        }
    else if (p.a.depth == 1)
        for (; i < rows; i++) {
            __m256i at = first;
            const float *x = p.a.p + i * p.a.row;
            entry *e = ends[i];
            int64_t k = 0;
            for (; k + 8 <= p.n; k += 8, at = _mm256_add_epi32(at, eight)) e = keep(e, _mm256_loadu_ps(x + k), at);
            for (; k < p.n; k++)
                if (x[k] != 0) *e++ = (entry){(int32_t)(base + k) * step, x[k]};
            ends[i] = e;
        }
#endif
    for (; i < rows; i++)
        for (int64_t k = 0; k < p.n; k++) {
            const float x = p.a.p[i * p.a.row + k * p.a.depth];
            if (x != 0) *ends[i]++ = (entry){(int32_t)(base + k) * step, x};
        }
}

/* rows, columns, number of places where a and b lie, rows of b in each, a in each, its steps along rows and depth, b in
 * each, its steps along depth and columns, c, room of product_room() bytes, calls until the next look for zeros,
 * whether c holds a sum to go on with. The places follow one another along the depth. */
int product(const word *w) {
    const int64_t rows = w[0].i, columns = w[1].i, places = w[2].i, *sizes = w[3].p, column = w[9].i;
    float *const *a = w[4].p, *const *b = w[7].p, *c = w[10].p, *panel = (float *)up(w[11].p);
    entry *lists = (entry *)(panel + PIECE * STRIP);
    entry **ends = (entry **)(lists + rows * (PIECE + SPARE));
    int64_t *pause = w[12].p, depth = 0;
    const int more = w[13].i != 0;
    for (int64_t i = 0; i < places; i++) depth += sizes[i];
    const int64_t pieces = depth ? (depth + PIECE - 1) / PIECE : 1, most = ((depth + pieces - 1) / pieces + 7) / 8 * 8;
    if (*pause) --*pause;
    int look = !*pause && columns >= STRIP / 2;
    /* Columns that would leave lanes empty: the result is made across, its rows side by side in the vectors. */
    float *across = columns <= TALL && rows >= LANES ? (float *)lists : 0;
    if (across && more)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) across[j * rows + i] = c[i * columns + j];
    portion portions[places];
    for (int64_t t = 0, place = 0, at = 0; t * most < depth; t++) { /* at: rows of b of this place that are done */
        const int64_t n = depth - t * most < most ? depth - t * most : most;
        const int64_t spaced = n + SPARE;
        int64_t count = 0, kept = 0;
        for (int64_t got = 0; got < n;) {
            const int64_t left = sizes[place] - at, m = left < n - got ? left : n - got;
            if (m)
                portions[count++] = (portion){{a[place] + at * w[6].i, w[5].i, w[6].i}, {b[place] + at * w[8].i, 0, w[8].i}, m};
            got += m;
            at += m;
            if (at == sizes[place]) place++, at = 0;
        }
        if (look) {
            for (int64_t i = 0; i < rows; i++) ends[i] = lists + i * spaced;
            for (int64_t p = 0, base = 0; p < count; base += portions[p++].n) list(rows, portions[p], base, ends);
            for (int64_t i = 0; i < rows; i++) kept += ends[i] - (lists + i * spaced);
            if (kept * 8 > rows * n * DENSITY) {
                look = 0;
                *pause = PAUSE;
            }
        }
        for (int64_t j = 0; j < columns; j += look ? STRIP : columns) {
            const int64_t wide = look && columns - j >= STRIP ? STRIP : columns - j;
            int sparse = look && wide % LANES == 0;
            if (sparse) {
                for (int64_t p = 0, base = 0; p < count; base += portions[p++].n) {
                    const matrix y = {portions[p].b.p + j * column, 0, portions[p].b.depth};
                    sparse &= copy_panel(y, column, wide, portions[p].n, panel + base * STRIP, STRIP);
                }
            }
            if (sparse)
                for (int64_t i = 0; i < rows; i++)
                    sums[wide / LANES](lists + i * spaced, ends[i], panel, c + i * columns + j, more || t > 0);
            else
                for (int64_t p = 0; p < count; p++) {
                    const matrix x = portions[p].a, y = {portions[p].b.p + j * column, column, portions[p].b.depth};
                    if (across)
                        dense(columns, rows, portions[p].n, y, x, x.row, across, rows, more || t + p > 0, panel);
                    else
                        dense(rows, wide, portions[p].n, x, y, column, c + j, columns, more || t + p > 0, panel);
                }
        }
    }
    if (across)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) c[i * columns + j] = across[j * rows + i];
    return OK;
}

/* The same of doubles, in the simplest way that has the same property.
 * rows, columns, depth, a, its steps along rows and depth, b, its steps along depth and columns, c, whether c holds a sum
 * to go on with */
int product_double(const word *w) {
    const int64_t rows = w[0].i, columns = w[1].i, depth = w[2].i, row = w[4].i, deep = w[5].i, down = w[7].i, column = w[8].i;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t first = 0; first < columns; first += STRIP) {
            const int64_t n = columns - first < STRIP ? columns - first : STRIP;
            const double *a = (const double *)w[3].p + i * row, *b = (const double *)w[6].p + first * column;
            double sum[STRIP], *c = (double *)w[9].p + i * columns + first;
            for (int64_t j = 0; j < n; j++) sum[j] = w[10].i ? c[j] : 0;
            for (int64_t k = 0; k < depth; k++, a += deep, b += down) {
                const double x = *a;
                if (column == 1)
                    for (int64_t j = 0; j < n; j++) sum[j] += x * b[j];
                else
                    for (int64_t j = 0; j < n; j++) sum[j] += x * b[j * column];
            }
            for (int64_t j = 0; j < n; j++) c[j] = sum[j] + 0.0;
        }
    return OK;
}

/* The bytes of room that a product of so many rows needs. */
int64_t product_room(int64_t rows) {
    return 64 + PIECE * STRIP * sizeof(float) + rows * ((PIECE + SPARE) * sizeof(entry) + sizeof(entry *));
}

/* Matrix products of floats, for sizes at which a BLAS spends a third of its time on getting ready.
 *
 * A block of the result, as many rows as there are registers for and two vectors wide, stays in registers while k
 * runs: each step loads two vectors of b and multiplies them by one number of a for each row. Nothing is copied
 * but the columns of b that are stored across or do not fill two vectors. Each entry is the sum over k from first to last,
 * so a row's result does not depend on what other rows there are: not on the batch, nor on the number of ranks.
 */
#include "kernels.h"

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 14
#elif defined(__AVX2__) && defined(__FMA__)
#define LANES 8
#define ROWS 6
#else
#define LANES 4
#define ROWS 6
#endif
#define WIDTH (2 * LANES)

typedef float vector __attribute__((vector_size(LANES * 4), aligned(4)));

/* Whether this processor has the vectors that make it worth while. */
int product_is_fast(void) { return LANES > 4; }

/* c[i, 0..WIDTH) = sum over k of a[i * ai + k * ak] * b[k * bk, 0..WIDTH) for i < N */
#define BLOCK(N)                                                                                                \
    static void block_##N(int64_t depth, const float *a, int64_t ai, int64_t ak, const float *b, int64_t bk,    \
                          float *c, int64_t ci) {                                                               \
        vector left[N], right[N];                                                                               \
        for (int i = 0; i < N; i++) left[i] = right[i] = (vector){0};                                           \
        for (int64_t k = 0; k < depth; k++, a += ak, b += bk) {                                                 \
            const vector p = *(const vector *)b, q = *(const vector *)(b + LANES);                              \
            _Pragma("GCC unroll 16") for (int i = 0; i < N; i++) {                                              \
                const float s = a[i * ai];                                                                      \
                left[i] += s * p;                                                                               \
                right[i] += s * q;                                                                              \
            }                                                                                                   \
        }                                                                                                       \
        for (int i = 0; i < N; i++) {                                                                           \
            *(vector *)(c + i * ci) = left[i];                                                                  \
            *(vector *)(c + i * ci + LANES) = right[i];                                                         \
        }                                                                                                       \
    }
BLOCK(1) BLOCK(2) BLOCK(3) BLOCK(4) BLOCK(5) BLOCK(6) BLOCK(7)
BLOCK(8) BLOCK(9) BLOCK(10) BLOCK(11) BLOCK(12) BLOCK(13) BLOCK(14)

typedef void (*block)(int64_t, const float *, int64_t, int64_t, const float *, int64_t, float *, int64_t);
static const block blocks[] = {0,       block_1, block_2, block_3,  block_4,  block_5,  block_6, block_7,
                               block_8, block_9, block_10, block_11, block_12, block_13, block_14};

/* A block of rows lies anywhere in a; where its numbers for one k are not far apart, they are first put side by side,
 * since each would lie in a page of its own. */
typedef struct {
    const float *a;
    int64_t row, depth;
} operand;

static operand block_of(const float *a, int64_t ai, int64_t ak, int64_t low, int64_t n, int64_t depth, float *room) {
    if (ai != 1 || depth < 16) return (operand){a + low * ai, ai, ak};
    if (n == ROWS)
        for (int64_t k = 0; k < depth; k++) memcpy(room + k * ROWS, a + low + k * ak, ROWS * sizeof(float));
    else
        for (int64_t k = 0; k < depth; k++)
            for (int64_t i = 0; i < n; i++) room[k * ROWS + i] = a[low + i + k * ak];
    return (operand){room, 1, ROWS};
}

/* n rows of `columns` <= WIDTH columns. */
static void tile(int64_t n, int64_t columns, int64_t depth, operand x, const float *b, int64_t bk, float *c,
                 int64_t ci) {
    if (columns == WIDTH) {
        blocks[n](depth, x.a, x.row, x.depth, b, bk, c, ci);
        return;
    }
    float edge[ROWS * WIDTH];
    blocks[n](depth, x.a, x.row, x.depth, b, bk, edge, WIDTH);
    for (int64_t i = 0; i < n; i++) memcpy(c + i * ci, edge + i * WIDTH, columns * sizeof(float));
}

/* Columns j.. of b, stored across or too few, as a panel WIDTH wide. */
static void copy_panel(const float *b, int64_t bk, int64_t bj, int64_t n, int64_t depth, float *panel) {
    if (n < WIDTH) memset(panel, 0, depth * WIDTH * sizeof(float));
    if (bj == 1) {
        for (int64_t k = 0; k < depth; k++) memcpy(panel + k * WIDTH, b + k * bk, n * sizeof(float));
        return;
    }
    for (int64_t k = 0; k < depth; k += LANES) /* in squares, so that each line that is read is used up */
        for (int64_t i = 0; i < n; i++)
            for (int64_t l = k; l < k + LANES && l < depth; l++) panel[l * WIDTH + i] = b[l * bk + i * bj];
}

/* rows, columns, depth, a, its steps along rows and depth, b, its steps along depth and columns, c,
 * room for depth * (WIDTH + ROWS) floats */
int product(const word *w) {
    const int64_t rows = w[0].i, columns = w[1].i, depth = w[2].i;
    const int64_t ai = w[4].i, ak = w[5].i, bk = w[7].i, bj = w[8].i;
    const float *a = w[3].p, *b = w[6].p;
    float *c = w[9].p, *room = w[10].p, *block_room = room + depth * WIDTH;
    const int64_t parts = (rows + ROWS - 1) / ROWS;
    const int64_t whole = bj == 1 ? columns / WIDTH * WIDTH : 0; /* columns that are read where they lie */
    for (int64_t t = 0; whole && t < parts; t++) {
        const int64_t low = rows * t / parts, n = rows * (t + 1) / parts - low;
        const operand x = block_of(a, ai, ak, low, n, depth, block_room);
        for (int64_t j = 0; j < whole; j += WIDTH)
            tile(n, WIDTH, depth, x, b + j, bk, c + low * columns + j, columns);
    }
    for (int64_t j = whole; j < columns; j += WIDTH) {
        const int64_t width = columns - j < WIDTH ? columns - j : WIDTH;
        copy_panel(b + j * bj, bk, bj, width, depth, room);
        for (int64_t t = 0; t < parts; t++) {
            const int64_t low = rows * t / parts, n = rows * (t + 1) / parts - low;
            const operand x = block_of(a, ai, ak, low, n, depth, block_room);
            tile(n, width, depth, x, room, WIDTH, c + low * columns + j, columns);
        }
    }
    return OK;
}

/* The floats of room that a product of this depth needs. */
int64_t product_room(int64_t depth) { return depth * (WIDTH + ROWS); }

/* What works along an axis: over classes, by indices, or up to each entry.
 *
 * Arrays are seen as [outer, n, inner], n being the axis. Rows of classes are shared out among lanes, threads beside one
 * another: one for a short row, up to a block for a long one. What lanes have is joined as a tree, so a row's result
 * depends on its length alone.
 */

/* at: the row of this thread; lane: its place among those of the row. All threads of a block go through the loop. */
#define EACH_ROW(T)                                                                                             \
    T *const room = room_of<T>();                                                                                   \
    const int count = (int)lanes, width = blockDim.x / count, lane = threadIdx.x % count,                       \
              column = threadIdx.x / count;                                                                     \
    for (int64_t first = (int64_t)here.x * width, at = first + column; first < rows;                        \
         first += (int64_t)here.across * width, at = first + column)

/* What the lanes of each row have, joined; every lane gets it. */
template <class J, class T> INLINE T all_lanes(T *room, T mine, int lane, int lanes, int column, int width) {
    room[lane * width + column] = mine;
    join_lanes<J>(room, lane, lanes, column, width);
    const T joined = room[column];
    __syncthreads(); /* before the next is put there */
    return joined;
}
#define OF_ROW(JOINS, MINE) all_lanes<JOINS>(room, MINE, lane, count, column, width)

/* The largest of what a lane has of a row. */
template <class T> INLINE T largest_of(const T *x, int64_t n, int lane, int lanes) {
    T top = most::start((T)0);
    for (int64_t j = lane; j < n; j += lanes) top = most::of(top, x[j]);
    return top;
}

/* lanes, x, rows, columns, out, which may be x */
#define SOFTMAX(T)                                                                                              \
    KERNEL softmax_##T(HERE, int64_t lanes, const T *x_, int64_t rows, int64_t columns,                         \
                       T *out) {                                                                                \
        EACH_ROW(T) {                                                                                           \
            const int64_t n = at < rows ? columns : 0;                                                          \
            const T *x = x_ + at * columns;                                                                     \
            T *y = out + at * columns, sum = 0;                                                                 \
            const T top = OF_ROW(most, largest_of(x, n, lane, count));                                          \
            for (int64_t j = lane; j < n; j += count) sum += y[j] = dt_exp(x[j] - top);                         \
            sum = OF_ROW(plus, sum);                                                                            \
            for (int64_t j = lane; j < n; j += count) y[j] = y[j] / sum;                                        \
        }                                                                                                       \
    }
SOFTMAX(float)
SOFTMAX(double)

#define LOG_SOFTMAX(T)                                                                                          \
    KERNEL log_softmax_##T(HERE, int64_t lanes, const T *x_, int64_t rows, int64_t columns,                     \
                           T *out) {                                                                            \
        EACH_ROW(T) {                                                                                           \
            const int64_t n = at < rows ? columns : 0;                                                          \
            const T *x = x_ + at * columns;                                                                     \
            T *y = out + at * columns, sum = 0;                                                                 \
            const T top = OF_ROW(most, largest_of(x, n, lane, count));                                          \
            for (int64_t j = lane; j < n; j += count) sum += dt_exp(x[j] - top);                                \
            sum = dt_log(OF_ROW(plus, sum));                                                                    \
            for (int64_t j = lane; j < n; j += count) y[j] = (x[j] - top) - sum;                                \
        }                                                                                                       \
    }
LOG_SOFTMAX(float)
LOG_SOFTMAX(double)

/* lanes, logits, rows, classes, labels, bytes of a label, losses out, gradients out */
#define SPARSE_CROSS_ENTROPY(T)                                                                                 \
    KERNEL sparse_cross_entropy_##T(HERE, int64_t lanes, const T *logits, int64_t rows,                         \
                                    int64_t classes, const void *labels, int64_t itemsize, T *loss, T *grad) {  \
        EACH_ROW(T) {                                                                                           \
            const int64_t n = at < rows ? classes : 0, label = n ? index_at(labels, itemsize, at) : 0;          \
            const bool bad = n && (uint64_t)label >= (uint64_t)classes;                                         \
            if (bad) stop(s, number, BAD_VALUE);                                                                \
            const T *x = logits + at * classes;                                                                 \
            T *g = grad + at * classes, sum = 0;                                                                \
            const T top = OF_ROW(most, largest_of(x, n, lane, count));                                          \
            for (int64_t j = lane; j < n; j += count) sum += g[j] = dt_exp(x[j] - top);                         \
            sum = OF_ROW(plus, sum);                                                                            \
            for (int64_t j = lane; j < n; j += count) g[j] = g[j] / sum - (j == label ? (T)1 : (T)0);           \
            if (n && !lane && !bad) loss[at] = dt_log(sum) - (x[label] - top);                                  \
        }                                                                                                       \
    }
SPARSE_CROSS_ENTROPY(float)
SPARSE_CROSS_ENTROPY(double)

/* lanes, logits, rows, classes, labels (probabilities), losses out, gradients out */
#define DENSE_CROSS_ENTROPY(T)                                                                                  \
    KERNEL dense_cross_entropy_##T(HERE, int64_t lanes, const T *logits, int64_t rows,                          \
                                   int64_t classes, const T *labels, T *loss, T *grad) {                        \
        EACH_ROW(T) {                                                                                           \
            const int64_t n = at < rows ? classes : 0;                                                          \
            const T *x = logits + at * classes, *t = labels + at * classes;                                     \
            T *g = grad + at * classes, sum = 0, mass = 0, along = 0;                                           \
            const T top = OF_ROW(most, largest_of(x, n, lane, count));                                          \
            for (int64_t j = lane; j < n; j += count) {                                                         \
                const T y = x[j] - top;                                                                         \
                sum += g[j] = dt_exp(y);                                                                        \
                mass += t[j];                                                                                   \
                along += y * t[j];                                                                              \
            }                                                                                                   \
            sum = OF_ROW(plus, sum);                                                                            \
            mass = OF_ROW(plus, mass);                                                                          \
            along = OF_ROW(plus, along);                                                                        \
            const T scale = mass / sum;                                                                         \
            for (int64_t j = lane; j < n; j += count) g[j] = g[j] * scale - t[j];                               \
            if (n && !lane) loss[at] = dt_log(sum) * mass - along;                                              \
        }                                                                                                       \
    }
DENSE_CROSS_ENTROPY(float)
DENSE_CROSS_ENTROPY(double)

/* Whether a comes before b among the largest, or smallest; a NaN before all numbers. */
template <class T> INLINE bool comes_first(T a, T b, bool least) {
    return a != a ? b == b : b == b && (least ? a < b : a > b);
}

/* x, outer, n, inner, whether the smallest, out: where the first of the largest entries is; a thread a result */
#define ARG_EXTREME(T)                                                                                          \
    KERNEL arg_extreme_##T(HERE, const T *x_, int64_t outer, int64_t n, int64_t inner,                          \
                           int64_t least, int64_t *out) {                                                       \
        for (int64_t i = AT; i < outer * inner; i += STRIDE) {                                                  \
            const T *x = x_ + i / inner * n * inner + i % inner;                                                \
            int64_t best = 0;                                                                                   \
            for (int64_t j = 1; j < n; j++)                                                                     \
                if (comes_first(x[j * inner], x[best * inner], least != 0)) best = j;                           \
            out[i] = best;                                                                                      \
        }                                                                                                       \
    }

/* x, outer, n, inner, whether without the entry itself, whether from the end, out; a thread a line */
#define CUMSUM(T)                                                                                               \
    KERNEL cumsum_##T(HERE, const T *x_, int64_t outer, int64_t n, int64_t inner,                               \
                      int64_t exclusive, int64_t reverse, T *out) {                                             \
        for (int64_t i = AT; i < outer * inner; i += STRIDE) {                                                  \
            const int64_t start = i / inner * n * inner + i % inner;                                            \
            T sum = 0;                                                                                          \
            for (int64_t k = 0; k < n; k++) {                                                                   \
                const int64_t j = start + (reverse ? n - 1 - k : k) * inner;                                    \
                const T next = sum + x_[j];                                                                     \
                out[j] = exclusive ? sum : next;                                                                \
                sum = next;                                                                                     \
            }                                                                                                   \
        }                                                                                                       \
    }

/* x, rows, columns, k, values, indices: the k largest of each row, of equal ones the one before; a thread a row */
#define TOP_K(T)                                                                                                \
    KERNEL top_k_##T(HERE, const T *x_, int64_t rows, int64_t columns, int64_t k,                               \
                     T *values, int32_t *indices) {                                                             \
        for (int64_t i = AT; i < rows; i += STRIDE) {                                                           \
            const T *x = x_ + i * columns;                                                                      \
            int64_t last = -1;                                                                                  \
            for (int64_t c = 0; c < k; c++) {                                                                   \
                int64_t best = -1; /* of those behind the one chosen last */                                    \
                for (int64_t j = 0; j < columns; j++) {                                                         \
                    const bool left = last < 0 || comes_first(x[last], x[j], false) ||                          \
                                      (j > last && !comes_first(x[j], x[last], false));                         \
                    if (left && (best < 0 || comes_first(x[j], x[best], false))) best = j;                      \
                }                                                                                               \
                values[i * k + c] = x[best];                                                                    \
                indices[i * k + c] = (int32_t)best;                                                             \
                last = best;                                                                                    \
            }                                                                                                   \
        }                                                                                                       \
    }
#define OF_NUMBERS(KIND) KIND(float) KIND(double) KIND(int32_t) KIND(int64_t) KIND(uint8_t)
OF_NUMBERS(ARG_EXTREME)
OF_NUMBERS(CUMSUM)
OF_NUMBERS(TOP_K)

/* predictions, rows, classes, targets, bytes of a target, k, out: whether fewer than k predictions are larger than the
 * target's, which is a number; a thread a row */
#define IN_TOP_K(T)                                                                                             \
    KERNEL in_top_k_##T(HERE, const T *x_, int64_t rows, int64_t classes,                                       \
                        const void *targets, int64_t itemsize, int64_t k, uint8_t *out) {                       \
        for (int64_t i = AT; i < rows; i += STRIDE) {                                                           \
            const T *x = x_ + i * classes;                                                                      \
            const int64_t target = index_at(targets, itemsize, i);                                              \
            bool in = (uint64_t)target < (uint64_t)classes && x[target] - x[target] == 0;                       \
            int64_t larger = 0;                                                                                 \
            for (int64_t j = 0; in && j < classes; j++) larger += x[j] > x[target];                             \
            out[i] = in && larger < k;                                                                          \
        }                                                                                                       \
    }
IN_TOP_K(float)
IN_TOP_K(double)

/* x [rows, columns], indices [rows, k], out: x's entries there */
#define PICK(T)                                                                                                 \
    KERNEL pick_##T(HERE, const T *x, int64_t rows, int64_t columns, const int32_t *indices,                    \
                    int64_t k, T *out) {                                                                        \
        for (int64_t i = AT; i < rows * k; i += STRIDE) out[i] = x[i / k * columns + indices[i]];               \
    }
/* and back: x's entries there become those of the last */
#define PUT(T)                                                                                                  \
    KERNEL put_##T(HERE, T *x, int64_t rows, int64_t columns, const int32_t *indices,                           \
                   int64_t k, const T *from) {                                                                  \
        for (int64_t i = AT; i < rows * k; i += STRIDE) x[i / k * columns + indices[i]] = from[i];              \
    }
OF_NUMBERS(PICK)
OF_NUMBERS(PUT)

/* positions [n, axes], bytes of a number, n, axes, their sizes, out: the place of each in row-major order */
KERNEL places(HERE, const void *positions, int64_t itemsize, int64_t n, int64_t axes,
              const int64_t *sizes, int64_t *out) {
    for (int64_t i = AT; i < n; i += STRIDE) {
        int64_t place = 0;
        for (int64_t a = 0; a < axes; a++) {
            const int64_t at = index_at(positions, itemsize, i * axes + a);
            if ((uint64_t)at >= (uint64_t)sizes[a]) stop(s, number, BAD_VALUE);
            else place = place * sizes[a] + at;
        }
        out[i] = place;
    }
}

/* dy [outer, n, inner], indices, bytes of an index, outer, n, inner, rows of out, by rows, out [outer, rows, inner].
 * A thread adds up, from the first to the last, what goes to one entry of out: it goes through the rows of out, or,
 * where there are fewer, through the indices, of which the first of equal ones does it; then out is zero before. */
#define SCATTER_ADD(T)                                                                                          \
    KERNEL scatter_add_##T(HERE, const T *dy, const void *indices, int64_t itemsize,                            \
                           int64_t outer, int64_t n, int64_t inner, int64_t rows, int64_t by_rows, T *out) {    \
        const int64_t owners = by_rows ? rows : n;                                                              \
        for (int64_t i = AT; i < outer * owners * inner; i += STRIDE) {                                         \
            const int64_t owner = i / inner % owners, o = i / inner / owners, column = i % inner;               \
            const int64_t row = by_rows ? owner : index_at(indices, itemsize, owner);                           \
            bool mine = (uint64_t)row < (uint64_t)rows;                                                         \
            for (int64_t j = 0; mine && !by_rows && j < owner; j++) mine = index_at(indices, itemsize, j) != row; \
            if (!mine) continue;                                                                                \
            T sum = 0;                                                                                          \
            for (int64_t j = by_rows ? 0 : owner; j < n; j++)                                                   \
                if (index_at(indices, itemsize, j) == row) sum += dy[(o * n + j) * inner + column];             \
            out[(o * rows + row) * inner + column] = sum;                                                       \
        }                                                                                                       \
    }
OF_NUMBERS(SCATTER_ADD)

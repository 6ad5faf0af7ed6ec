/* What works over rows of classes.
 *
 * A row is shared out among lanes, threads beside one another: one for a short row, up to a block for a long one. What
 * lanes have is joined as a tree, so a row's result depends on its length alone.
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
template <class T>
KERNEL softmax(HERE, int64_t lanes, const T *x_, int64_t rows, int64_t columns, T *out) {
    EACH_ROW(T) {
        const int64_t n = at < rows ? columns : 0;
        const T *x = x_ + at * columns;
        T *y = out + at * columns, sum = 0;
        const T top = OF_ROW(most, largest_of(x, n, lane, count));
        for (int64_t j = lane; j < n; j += count) sum += y[j] = dt_exp(x[j] - top);
        sum = OF_ROW(plus, sum);
        for (int64_t j = lane; j < n; j += count) y[j] = y[j] / sum;
    }
}

template <class T>
KERNEL log_softmax(HERE, int64_t lanes, const T *x_, int64_t rows, int64_t columns, T *out) {
    EACH_ROW(T) {
        const int64_t n = at < rows ? columns : 0;
        const T *x = x_ + at * columns;
        T *y = out + at * columns, sum = 0;
        const T top = OF_ROW(most, largest_of(x, n, lane, count));
        for (int64_t j = lane; j < n; j += count) sum += dt_exp(x[j] - top);
        sum = dt_log(OF_ROW(plus, sum));
        for (int64_t j = lane; j < n; j += count) y[j] = (x[j] - top) - sum;
    }
}

/* lanes, logits, rows, classes, labels, bytes of a label, losses out, gradients out */
template <class T>
KERNEL sparse_cross_entropy(HERE, int64_t lanes, const T *logits, int64_t rows, int64_t classes, const void *labels,
                            int64_t itemsize, T *loss, T *grad) {
    EACH_ROW(T) {
        const int64_t n = at < rows ? classes : 0, label = n ? index_at(labels, itemsize, at) : 0;
        const bool bad = n && (uint64_t)label >= (uint64_t)classes;
        if (bad) stop(s, number, BAD_VALUE);
        const T *x = logits + at * classes;
        T *g = grad + at * classes, sum = 0;
        const T top = OF_ROW(most, largest_of(x, n, lane, count));
        for (int64_t j = lane; j < n; j += count) sum += g[j] = dt_exp(x[j] - top);
        sum = OF_ROW(plus, sum);
        for (int64_t j = lane; j < n; j += count) g[j] = g[j] / sum - (j == label ? (T)1 : (T)0);
        if (n && !lane && !bad) loss[at] = dt_log(sum) - (x[label] - top);
    }
}

/* lanes, logits, rows, classes, labels (probabilities), losses out, gradients out */
template <class T>
KERNEL dense_cross_entropy(HERE, int64_t lanes, const T *logits, int64_t rows, int64_t classes, const T *labels,
                           T *loss, T *grad) {
    EACH_ROW(T) {
        const int64_t n = at < rows ? classes : 0;
        const T *x = logits + at * classes, *t = labels + at * classes;
        T *g = grad + at * classes, sum = 0, mass = 0, along = 0;
        const T top = OF_ROW(most, largest_of(x, n, lane, count));
        for (int64_t j = lane; j < n; j += count) {
            const T y = x[j] - top;
            sum += g[j] = dt_exp(y);
            mass += t[j];
            along += y * t[j];
        }
        sum = OF_ROW(plus, sum);
        mass = OF_ROW(plus, mass);
        along = OF_ROW(plus, along);
        const T scale = mass / sum;
        for (int64_t j = lane; j < n; j += count) g[j] = g[j] * scale - t[j];
        if (n && !lane) loss[at] = dt_log(sum) * mass - along;
    }
}

/* Whether a comes before b among the largest; a NaN before all numbers. */
template <class T> INLINE bool comes_first(T a, T b) { return a != a ? b == b : b == b && a > b; }

/* x [outer, n, inner], the three, whether the smallest, out [outer, inner]: where the first of the largest entries is,
 * a NaN being larger than none; a thread a result */
template <class T>
KERNEL arg_extreme(HERE, const T *x_, int64_t outer, int64_t n, int64_t inner, int64_t least, int64_t *out) {
    for (int64_t i = AT; i < outer * inner; i += STRIDE) {
        const T *x = x_ + i / inner * n * inner + i % inner;
        int64_t best = 0;
        T top = least ? highest((T)0) : lowest((T)0);
        for (int64_t j = 0; j < n; j++)
            if (least ? x[j * inner] < top : x[j * inner] > top) top = x[j * inner], best = j;
        out[i] = best;
    }
}

/* x, rows, columns, k, values, indices: the k largest of each row, of equal ones the one before; a thread a row */
template <class T>
KERNEL top_k(HERE, const T *x_, int64_t rows, int64_t columns, int64_t k, T *values, int32_t *indices) {
    for (int64_t i = AT; i < rows; i += STRIDE) {
        const T *x = x_ + i * columns;
        int64_t last = -1;
        for (int64_t c = 0; c < k; c++) {
            int64_t best = -1; /* of those behind the one chosen last */
            for (int64_t j = 0; j < columns; j++) {
                const bool left = last < 0 || comes_first(x[last], x[j]) ||
                                  (j > last && !comes_first(x[j], x[last]));
                if (left && (best < 0 || comes_first(x[j], x[best]))) best = j;
            }
            values[i * k + c] = x[best];
            indices[i * k + c] = (int32_t)best;
            last = best;
        }
    }
}

/* What works along an axis, up to each entry or by indices. Arrays are seen as [outer, n, inner], n being the axis. */

/* x, outer, n, inner, whether without the entry itself, whether from the end, out; a thread a line */
template <class T>
KERNEL cumsum(HERE, const T *x_, int64_t outer, int64_t n, int64_t inner, int64_t exclusive, int64_t reverse,
              T *out) {
    for (int64_t i = AT; i < outer * inner; i += STRIDE) {
        const int64_t start = i / inner * n * inner + i % inner;
        T sum = 0;
        for (int64_t k = 0; k < n; k++) {
            const int64_t j = start + (reverse ? n - 1 - k : k) * inner;
            const T next = sum + x_[j];
            out[j] = exclusive ? sum : next;
            sum = next;
        }
    }
}

/* x [rows, columns], indices [rows, k], out: x's entries there */
template <class T>
KERNEL pick(HERE, const T *x, int64_t rows, int64_t columns, const int32_t *indices, int64_t k, T *out) {
    for (int64_t i = AT; i < rows * k; i += STRIDE) out[i] = x[i / k * columns + indices[i]];
}
/* and back: x's entries there become those of the last */
template <class T>
KERNEL put(HERE, T *x, int64_t rows, int64_t columns, const int32_t *indices, int64_t k, const T *from) {
    for (int64_t i = AT; i < rows * k; i += STRIDE) x[i / k * columns + indices[i]] = from[i];
}

/* positions [n, axes], n, axes, their sizes, out: the place of each in row-major order */
template <class T>
KERNEL flat_index(HERE, const T *positions, int64_t n, int64_t axes, const int64_t *sizes, int64_t *out) {
    for (int64_t i = AT; i < n; i += STRIDE) {
        int64_t place = 0;
        for (int64_t a = 0; a < axes; a++) {
            const int64_t at = positions[i * axes + a];
            if ((uint64_t)at >= (uint64_t)sizes[a]) stop(s, number, BAD_VALUE);
            else place = place * sizes[a] + at;
        }
        out[i] = place;
    }
}

/* dy [outer, n, inner], indices, bytes of an index, outer, n, inner, rows of out, by rows, out [outer, rows, inner].
 * A thread adds up, from the first to the last, what goes to one entry of out: it goes through the rows of out, or,
 * where there are fewer, through the indices, of which the first of equal ones does it; then out is zero before. */
template <class T>
KERNEL scatter_add(HERE, const T *dy, const void *indices, int64_t itemsize, int64_t outer, int64_t n, int64_t inner,
                   int64_t rows, int64_t by_rows, T *out) {
    const int64_t owners = by_rows ? rows : n;
    for (int64_t i = AT; i < outer * owners * inner; i += STRIDE) {
        const int64_t owner = i / inner % owners, o = i / inner / owners, column = i % inner;
        const int64_t row = by_rows ? owner : index_at(indices, itemsize, owner);
        bool mine = (uint64_t)row < (uint64_t)rows;
        for (int64_t j = 0; mine && !by_rows && j < owner; j++) mine = index_at(indices, itemsize, j) != row;
        if (!mine) continue;
        T sum = 0;
        for (int64_t j = by_rows ? 0 : owner; j < n; j++)
            if (index_at(indices, itemsize, j) == row) sum += dy[(o * n + j) * inner + column];
        out[(o * rows + row) * inner + column] = sum;
    }
}

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

/* What places are computed in for images of T, and how such numbers are cut. */
template <class T>
struct reals {
    typedef float type;
};
template <>
struct reals<double> {
    typedef double type;
};
INLINE float near_of(float v) { return near_float(v); }
INLINE double near_of(double v) { return near_double(v); }
INLINE float floor_of(float v) { return floorf(v); }
INLINE double floor_of(double v) { return floor(v); }
INLINE float rounded(float v, float) { return v; }
INLINE double rounded(double v, double) { return v; }
INLINE uint8_t rounded(float v, uint8_t) { return (uint8_t)floorf(v + 0.5f); }

/* images [n, h, w, c], six numbers for each, the sizes, rows and columns of out, fill, whether smooth, the value beside,
 * out; a thread a pixel: see ops/warp.py */
template <class T>
KERNEL warp(HERE, const T *images, const void *places, int64_t n, int64_t h, int64_t w, int64_t c, int64_t rows,
            int64_t columns, int64_t fill, int64_t smooth, double beside, T *out_) {
    typedef typename reals<T>::type real;
    const T other = (T)beside;
    for (int64_t at = AT; at < n * rows * columns; at += STRIDE) {
        const int64_t e = at / (rows * columns), i = at / columns % rows, j = at % columns;
        const T *x = images + e * h * w * c;
        const real *m = (const real *)places + 6 * e;
        T *out = out_ + at * c;
        const real across = near_of(m[0] * j + m[1] * i + m[2]), down = near_of(m[3] * j + m[4] * i + m[5]);
        if (!smooth) {
            const int64_t k = inside((int64_t)floor_of(across + (real)0.5), w, fill);
            const int64_t y = inside((int64_t)floor_of(down + (real)0.5), h, fill);
            for (int64_t l = 0; l < c; l++) out[l] = k < 0 || y < 0 ? other : x[(y * w + k) * c + l];
            continue;
        }
        const real left = floor_of(across), top = floor_of(down), s = across - left, t = down - top;
        const int64_t k[2] = {inside((int64_t)left, w, fill), inside((int64_t)left + 1, w, fill)};
        const int64_t y[2] = {inside((int64_t)top, h, fill), inside((int64_t)top + 1, h, fill)};
        for (int64_t l = 0; l < c; l++) {
            real p[4];
            for (int q = 0; q < 4; q++) {
                const int64_t r = y[q / 2], o = k[q % 2];
                p[q] = r < 0 || o < 0 ? other : x[(r * w + o) * c + l];
            }
            out[l] = rounded((p[0] * (1 - s) + p[1] * s) * (1 - t) + (p[2] * (1 - s) + p[3] * s) * t, other);
        }
    }
}

/* Windows that slide over images [n, height, width, channels]: for convolution and pooling.
 *
 * The host starts these kernels on so few images at once that 32 bits count what they write.
 */

/* How windows lie on an image: its size and channels, the results, and along each axis the windows' size, distance,
 * spread, and the padding before. */
struct windows {
    int height, width, channels, rows, columns, size_y, size_x, stride_y, stride_x, spread_y, spread_x, top, left;
};
#define GIVEN                                                                                                   \
    int64_t height, int64_t width, int64_t channels, int64_t rows, int64_t columns, int64_t size_y, int64_t size_x,\
        int64_t stride_y, int64_t stride_x, int64_t spread_y, int64_t spread_x, int64_t top, int64_t left
#define WINDOWS                                                                                                 \
    {(int)height,   (int)width,    (int)channels, (int)rows,     (int)columns, (int)size_y, (int)size_x,        \
     (int)stride_y, (int)stride_x, (int)spread_y, (int)spread_x, (int)top,     (int)left}

/* Four channels at once. */
INLINE float4 operator+(float4 a, float4 b) {
    float4 sum;
    sum.x = a.x + b.x, sum.y = a.y + b.y, sum.z = a.z + b.z, sum.w = a.w + b.w;
    return sum;
}

/* The windows of n images as rows of a matrix. Of as many threads as are a whole number of rows each keeps to its
 * column, so that it divides twice an entry, and neighbours write side by side. channels: of the type V. */
template <class V>
KERNEL window_rows(HERE, const V *x, GIVEN, int64_t n_, V *out) {
    const windows g = WINDOWS;
    const uint32_t n = (uint32_t)n_;
    const uint32_t depth = g.size_y * g.size_x * g.channels, matrix = n * g.rows * g.columns;
    const uint32_t step = (uint32_t)STRIDE / depth, from = (uint32_t)AT / depth, at = (uint32_t)AT % depth;
    const int channel = at % g.channels, x_in = at / g.channels % g.size_x, y_in = at / g.channels / g.size_x;
    if (from >= step) return;
    for (uint32_t row = from; row < matrix; row += step) {
        const uint32_t i = row / g.columns, column = row - i * g.columns, image = i / g.rows;
        const int y = (int)(i - image * g.rows) * g.stride_y + y_in * g.spread_y - g.top;
        const int z = (int)column * g.stride_x + x_in * g.spread_x - g.left;
        V value = {};
        if (0 <= y && y < g.height && 0 <= z && z < g.width)
            value = x[((int64_t)image * g.height + y) * g.width * g.channels + z * g.channels + channel];
        out[row * depth + at] = value;
    }
}

/* Which windows along one axis hold position `at` of the padded image: the last, and one before the first. */
INLINE int last_window(int at, int stride, int count) { return at / stride < count ? at / stride : count - 1; }
INLINE int before_first(int at, int size, int stride, int spread) {
    const int start = at - (size - 1) * spread; /* of the first window that reaches so far, or a little later */
    return start <= 0 ? -1 : (start + stride - 1) / stride - 1;
}

/* For each entry of the images what the windows that hold it have for it, added up: BODY uses i (the window's number),
 * k (the entry of the window) and adds to sum. From the last window to the first is from the first entry to the last. */
#define EACH_WINDOW(BODY)                                                                                       \
    const uint32_t pixel = at / g.channels, channel = at - pixel * g.channels, line = pixel / g.width;          \
    const uint32_t image = line / g.height;                                                                     \
    const int y = (int)(line - image * g.height) + g.top, x = (int)(pixel - line * g.width) + g.left;           \
    const int end_y = before_first(y, g.size_y, g.stride_y, g.spread_y);                                        \
    const int end_x = before_first(x, g.size_x, g.stride_x, g.spread_x);                                        \
    for (int row = last_window(y, g.stride_y, g.rows); row > end_y; row--) {                                    \
        const int in_y = y - row * g.stride_y;                                                                  \
        if (g.spread_y != 1 && in_y % g.spread_y) continue;                                                     \
        for (int column = last_window(x, g.stride_x, g.columns); column > end_x; column--) {                    \
            const int in_x = x - column * g.stride_x;                                                           \
            if (g.spread_x != 1 && in_x % g.spread_x) continue;                                                 \
            const uint32_t i = (image * g.rows + row) * g.columns + column;                                     \
            const uint32_t k = in_y / g.spread_y * g.size_x + in_x / g.spread_x;                                \
            BODY                                                                                                \
        }                                                                                                       \
    }

/* rows of a matrix, as window_rows makes them, added up where they come from */
template <class V>
KERNEL add_rows(HERE, const V *in, GIVEN, int64_t n, V *out) {
    const windows g = WINDOWS;
    const uint32_t all = (uint32_t)n * g.height * g.width * g.channels;
    const uint32_t window = g.size_y * g.size_x;
    for (uint32_t at = (uint32_t)AT; at < all; at += (uint32_t)STRIDE) {
        V sum = {};
        EACH_WINDOW(sum = sum + in[(i * window + k) * g.channels + channel];)
        out[at] = sum;
    }
}

/* For each entry of the results: BODY uses k (the entry of the window) and value (what lies there) for those within the
 * image. */
#define EACH_ENTRY(T, BODY)                                                                                     \
    const uint32_t window = at / g.channels, channel = at - window * g.channels, line = window / g.columns;     \
    const uint32_t image = line / g.rows;                                                                       \
    const int y = (int)(line - image * g.rows) * g.stride_y - g.top;                                            \
    const int x = (int)(window - line * g.columns) * g.stride_x - g.left;                                       \
    const T *in = images + (int64_t)image * g.height * g.width * g.channels + channel;                          \
    for (int a = y < 0 ? -y : 0; a < g.size_y && y + a < g.height; a++)                                         \
        for (int b = x < 0 ? -x : 0; b < g.size_x && x + b < g.width; b++) {                                    \
            const int k = a * g.size_x + b;                                                                     \
            const T value = in[((y + a) * g.width + x + b) * g.channels];                                       \
            BODY                                                                                                \
        }
#define POOLED ((uint32_t)n * g.rows * g.columns * g.channels)

/* images, windows, n, the largest entries' positions, the entries. The first of equal ones, and none of the padding:
 * where all are -INFINITY the position is 0, and a NaN stays one, with the position of the largest before it. */
template <class T, class POSITION>
KERNEL max_pool(HERE, const T *images, GIVEN, int64_t n, POSITION *positions, T *out) {
    const windows g = WINDOWS;
    for (uint32_t at = (uint32_t)AT; at < POOLED; at += (uint32_t)STRIDE) {
        T best = -INFINITY;
        int position = 0;
        EACH_ENTRY(T, if (value > best) position = k; best = most::of(best, value);)
        out[at] = best;
        positions[at] = (POSITION)position;
    }
}
/* images, windows, n, positions, the entries there: 0 in the padding */
template <class T, class POSITION>
KERNEL max_pool_pick(HERE, const T *images, GIVEN, int64_t n, const POSITION *positions, T *out) {
    const windows g = WINDOWS;
    for (uint32_t at = (uint32_t)AT; at < POOLED; at += (uint32_t)STRIDE) {
        T picked = 0;
        EACH_ENTRY(T, if (k == (int)positions[at]) picked = value;)
        out[at] = picked;
    }
}
/* what flows back to the results, windows, n, positions, what flows to the images */
template <class T, class POSITION>
KERNEL max_pool_grad(HERE, const T *dy, GIVEN, int64_t n, const POSITION *positions, T *out) {
    const windows g = WINDOWS;
    const uint32_t all = (uint32_t)n * g.height * g.width * g.channels;
    for (uint32_t at = (uint32_t)AT; at < all; at += (uint32_t)STRIDE) {
        T sum = 0;
        EACH_WINDOW(const uint32_t j = i * g.channels + channel;
                    if (positions[j] == (POSITION)k) sum += dy[j];)
        out[at] = sum;
    }
}

/* How many entries of a window lie within the image. */
INLINE int inside(int start, int size, int n) {
    return (start + size < n ? start + size : n) - (start > 0 ? start : 0);
}

/* images, windows, n, the means of what lies within the image */
template <class T>
KERNEL avg_pool(HERE, const T *images, GIVEN, int64_t n, T *out) {
    const windows g = WINDOWS;
    for (uint32_t at = (uint32_t)AT; at < POOLED; at += (uint32_t)STRIDE) {
        T sum = 0;
        EACH_ENTRY(T, sum += value;)
        out[at] = sum * (T)(1.0 / (inside(y, g.size_y, g.height) * inside(x, g.size_x, g.width)));
    }
}

/* what flows back to the means, windows, n, what flows to the images */
template <class T>
KERNEL avg_pool_grad(HERE, const T *dy, GIVEN, int64_t n, T *out) {
    const windows g = WINDOWS;
    const uint32_t all = (uint32_t)n * g.height * g.width * g.channels;
    for (uint32_t at = (uint32_t)AT; at < all; at += (uint32_t)STRIDE) {
        T sum = 0;
        EACH_WINDOW(const int within = inside(row * g.stride_y - g.top, g.size_y, g.height) *
                                       inside(column * g.stride_x - g.left, g.size_x, g.width);
                    sum += dy[i * g.channels + channel] * (T)(1.0 / within);)
        out[at] = sum;
    }
}

/* How windows lie on images: behind kernels.h.
 *
 * Images are [height, width, channels], results [rows, columns, outputs]. Of a window its size, stride and dilation down
 * and across, and how far above and left of the image the first begins.
 */
typedef struct {
    int64_t height, width, channels, rows, columns, outputs, kh, kw, sh, sw, dh, dw, top, left;
} shape;

INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t parts_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* The kernels that do not depend on the graph; those that kernels.c has too do the same. */

INLINE void move(char *to, const char *from, int64_t size, int64_t at, int64_t by) {
    const uint64_t all = (uint64_t)to | (uint64_t)from | (uint64_t)size;
    if (!(all & 15)) {
        for (int64_t i = at; i < size / 16; i += by) ((float4 *)to)[i] = ((const float4 *)from)[i];
    } else if (!(all & 7)) {
        for (int64_t i = at; i < size / 8; i += by) ((int64_t *)to)[i] = ((const int64_t *)from)[i];
    } else if (!(all & 3)) {
        for (int64_t i = at; i < size / 4; i += by) ((int32_t *)to)[i] = ((const int32_t *)from)[i];
    } else {
        for (int64_t i = at; i < size; i += by) to[i] = from[i];
    }
}

/* The start of a step. One thread does it. */
KERNEL begin(HERE) {
    if (!AT && s->last) stop(s, number, STOPPED);
}

/* Behind it: the feeds get what they have in the step. here.y: which feed. */
KERNEL feed(HERE, const transfer *feeds) {
    if (stopped(s)) return;
    const transfer t = feeds[here.y];
    move(t.buffer, t.rows + s->step * t.stride, t.size, AT, STRIDE);
}

/* Its end: results are kept. here.y: which fetch. */
KERNEL fetch(HERE, const transfer *fetches) {
    if (stopped(s)) return;
    const transfer t = fetches[here.y];
    move(t.rows + s->step * t.stride, t.buffer, t.size, AT, STRIDE);
}

/* The step is done but for what is launched with this, which reads no more of the state than its status: it counts, and
 * so do the draws of its random operations. counters: of each operation how often it has drawn, and whether it has in
 * this step. One thread does it. */
KERNEL count(HERE, int64_t *counters, int64_t n) {
    if (AT) return;
    if (!stopped(s)) {
        s->step += 1;
        for (int64_t i = 0; i < n; i++) {
            counters[2 * i] += counters[2 * i + 1];
            counters[2 * i + 1] = 0;
        }
        s->last = s->until && *s->until != 0;
    }
    s->told[0] = s->status, s->told[1] = s->number, s->told[2] = s->step, s->told[3] = s->last;
}

KERNEL copy(HERE, char *out, const char *in, int64_t bytes) {
    if (!stopped(s)) move(out, in, bytes, AT, STRIDE);
}

/* From each of several tables the same rows; width threads copy a row. A row that is not there is left out. */
INLINE void gather_rows(HERE, const char *tables, int64_t rows, int64_t size, const void *indices,
                        int64_t itemsize, int64_t n, int64_t count, char *out, int64_t width) {
    const int64_t i = AT / width;
    if (i >= n * count) return;
    const int64_t table = count == 1 ? 0 : i / n, row = index_at(indices, itemsize, i - table * n);
    if ((uint64_t)row >= (uint64_t)rows) stop(s, number, BAD_VALUE);
    else move(out + i * size, tables + (table * rows + row) * size, size, AT % width, width);
}

/* tables one behind the other, rows of each, bytes of a row, indices, bytes of an index, their number, tables, out */
KERNEL gather(HERE, const char *tables, int64_t rows, int64_t size, const void *indices, int64_t itemsize, int64_t n,
              int64_t count, char *out, int64_t width) {
    gather_rows(here, s, number, tables, rows, size, indices, itemsize, n, count, out, width);
}

/* where a table is lent to (its address, 0 for none, and its rows), and the rest as of gather */
KERNEL gather_lent(HERE, const int64_t *lent, int64_t size, const void *indices, int64_t itemsize, int64_t n,
                   char *out, int64_t width) {
    if (lent[0]) gather_rows(here, s, number, (const char *)lent[0], lent[1], size, indices, itemsize, n, 1, out, width);
    else stop(s, number, BAD_VALUE);
}

/* the address and size of each of several arrays, how many, limit, verdict: it becomes 1 where an entry is NaN or beyond
 * the limit, and stays where none is */
template <class REAL, class VERDICT>
KERNEL has_bad(HERE, const int64_t *arrays, int64_t count, double limit, VERDICT *out) {
    const REAL most = (REAL)limit;
    bool bad = false;
    for (int64_t k = 0; k < count; k++) {
        const REAL *x = (const REAL *)arrays[2 * k];
        const int64_t n = arrays[2 * k + 1];
        for (int64_t i = AT; i < n; i += STRIDE) bad |= !((x[i] < 0 ? -x[i] : x[i]) <= most);
    }
    if (bad) *out = 1;
}

KERNEL zero(HERE, char *out, int64_t bytes) {
    for (int64_t i = AT; i < bytes; i += STRIDE) out[i] = 0;
}

/* a verdict, 0 where all is well */
KERNEL stop_if_bad_float(HERE, const float *verdict) {
    if (*verdict != 0) stop(s, number, NOT_FINITE);
}
KERNEL stop_if_bad_double(HERE, const double *verdict) {
    if (*verdict != 0) stop(s, number, NOT_FINITE);
}

/* Philox4x64-10 (Salmon et al. 2011) as NumPy has it: four random words for each value of the counter. */
INLINE void philox(uint64_t *x, uint64_t key0, uint64_t key1) {
    for (int round = 0; round < 10; round++) {
        const uint64_t a = 0xD2E7470EE14C6C93ull, b = 0xCA5A826395121157ull;
        const uint64_t high0 = __umul64hi(a, x[0]), high1 = __umul64hi(b, x[2]), low0 = a * x[0], low1 = b * x[2];
        x[0] = high1 ^ x[1] ^ key0;
        x[1] = low1;
        x[2] = high0 ^ x[3] ^ key1;
        x[3] = low0;
        key0 += 0x9E3779B97F4A7C15ull;
        key1 += 0xBB67AE8584CAA73Bull;
    }
}

/* What ops/dropout.py draws on the host, to the bit. counter: of the operation, see count; start: the number of the
 * first entry; n: entries. A thread makes what one value of Philox's counter gives, 16 or 32 of them. */
template <class REAL>
KERNEL dropout(HERE, const REAL *keep, int64_t *counter, int64_t key0, int64_t key1, int64_t start, int64_t n,
               REAL *out) {
    const double share = *keep;
    if (!(share > 0 && share <= 1)) {
        stop(s, number, BAD_VALUE);
        return;
    }
    if (AT == 0) counter[1] = share != 1;
    const int64_t rounded = (int64_t)rint(share * 65536), limit = rounded < 1 ? 1 : rounded;
    const bool bytes = limit % 256 == 0 && limit < 65536;
    const int64_t each = bytes ? 32 : 16, first = start / each, last = (start + n + each - 1) / each;
    const REAL kept = (REAL)(1 / share);
    for (int64_t block = first + AT; block < last; block += STRIDE) {
        uint64_t x[4] = {(uint64_t)block + 1, 0, (uint64_t)counter[0], 0};
        if (share != 1) philox(x, (uint64_t)key0, (uint64_t)key1);
        for (int64_t j = 0; j < each; j++) {
            const int64_t i = block * each + j - start;
            if (i < 0 || i >= n) continue;
            const uint64_t bits = bytes ? x[j / 8] >> j % 8 * 8 & 255 : x[j / 4] >> j % 4 * 16 & 65535;
            out[i] = share == 1 || bits < (uint64_t)(bytes ? limit >> 8 : limit) ? kept : (REAL)0;
        }
    }
}

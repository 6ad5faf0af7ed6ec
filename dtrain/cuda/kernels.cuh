/* What kernels in CUDA are made of: those in files beside this one, and those that dtrain generates for a plan.
 *
 * A kernel is a function here. What is launched are entries made for a plan (see code.py): each is one kernel, or several
 * small ones that follow one another, in turn by one block. A kernel's first arguments are the block that it is to be,
 * the state of the run and the kernel's number in its plan. Once the state says why the
 * steps stopped, kernels that write variables, counters or results do nothing: what is launched behind a bad batch, or
 * behind a number that is not finite, changes nothing, and the host learns of it when it next looks.
 * Sums are added up in an order that depends on their sizes alone, and no atomic operation adds floats, so a run
 * repeats to the bit.
 */
#ifdef __CUDACC_RTC__ /* NVRTC comes without headers */
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#define FLT_MIN 1.17549435e-38f
#define DBL_MIN 2.2250738585072014e-308
#endif

#define INLINE static __device__ __forceinline__
#define KERNEL INLINE void
#define HERE const place here, state *s, int64_t number

/* Which block of how many; blockIdx and gridDim where a kernel is launched alone, or with `others` blocks before it. */
struct place {
    unsigned x, y, across, down;
};
INLINE place launched(unsigned others) { return {blockIdx.x - others, blockIdx.y, gridDim.x - others, gridDim.y}; }
INLINE place nth(unsigned i, unsigned across, unsigned down) { return {i % across, i / across, across, down}; }

/* An array of any type, among the arguments of an entry. */
struct array {
    void *at;
    template <class T> __device__ __forceinline__ operator T *() const { return (T *)at; }
};

INLINE float as_float(int32_t bits) { return __int_as_float(bits); }
INLINE int32_t as_bits(float f) { return __float_as_int(f); }

#include "numbers.h"

INLINE float dt_exp(float x) { return exp_float(x); }
INLINE double dt_exp(double x) { return exp(x); }
INLINE float dt_log(float x) { return log_float(x); }
INLINE double dt_log(double x) { return log(x); }
INLINE float dt_tanh(float x) { return tanh_float(x); }
INLINE double dt_tanh(double x) { return tanh(x); }
INLINE float dt_fmod(float x, float y) { return fmodf(x, y); }
INLINE double dt_fmod(double x, double y) { return fmod(x, y); }

/* Powers; of integers by squaring, which wraps as NumPy's do. */
INLINE float dt_pow(float x, float y) { return powf(x, y); }
INLINE double dt_pow(double x, double y) { return pow(x, y); }
template <class T> INLINE T dt_pow(T x, T n) {
    uint64_t power = 1, square = (uint64_t)x;
    for (uint64_t rest = n < 0 ? 0 : (uint64_t)n; rest; rest >>= 1, square *= square)
        if (rest & 1) power *= square;
    return (T)power;
}

/* x - y floor(x / y), and of integers floor(x / y), as Python has them: what is left over has y's sign. Of integers by 0
 * it is 0. */
template <class T> INLINE T dt_remainder(T x, T y) {
    if (y == 0) return 0;
    const T left = (T)-1 < 0 && y == (T)-1 ? 0 : x % y; /* the smallest integer by -1 would not fit */
    return left != 0 && (left < 0) != (y < 0) ? left + y : left;
}
template <class T> INLINE T dt_floor_divide(T x, T y) {
    if (y == 0) return 0;
    if ((T)-1 < 0 && y == (T)-1) return (T)(0 - (uint64_t)x);
    return x / y - (x % y != 0 && (x % y < 0) != (y < 0));
}
template <class T> INLINE T real_remainder(T x, T y) {
    const T left = dt_fmod(x, y);
    if (y == 0 || left != left) return left;
    if (left == 0) return y < 0 ? -(T)0 : (T)0;
    return (left < 0) != (y < 0) ? left + y : left;
}
INLINE float dt_remainder(float x, float y) { return real_remainder(x, y); }
INLINE double dt_remainder(double x, double y) { return real_remainder(x, y); }

enum { OK = 0, BAD_VALUE = 1, NOT_FINITE = 3, STOPPED = 4 };

/* status: one of these; number: of the kernel that changed it; step: how many steps are done; last: whether the one that
 * was done last was to be the last, which those that end with it need not know; until: a step in which it is not 0 is
 * the last, where there is one; told: where on the host the first four are written at the end of each step. */
struct state {
    int64_t status, number, step, last;
    const float *until;
    int64_t *told;
};

/* volatile: another thread of the block may just have changed it */
INLINE bool stopped(const state *s) { return *(const volatile int64_t *)&s->status != OK; }
INLINE void stop(state *s, int64_t number, int why) {
    if (atomicCAS((unsigned long long *)&s->status, 0ull, (unsigned long long)why) == 0) s->number = number;
}

/* What a step is fed, or gives: size bytes of buffer, and where they lie for the first step; stride bytes further for
 * each one after. */
struct transfer {
    char *buffer, *rows;
    int64_t size, stride;
};

#define AT ((int64_t)here.x * blockDim.x + threadIdx.x)
#define STRIDE ((int64_t)here.across * blockDim.x)

/* Entry `at` of rows picked from a lent table, of `each` entries: see picked in loops.py. */
template <class T, class I>
INLINE T row_entry(state *s, int64_t number, const int64_t *lent, const char *indices, int64_t bytes, I each, I at) {
    const I place = at / each;
    const int64_t row = index_at(indices, bytes, place);
    if (lent[0] && (uint64_t)row < (uint64_t)lent[1]) return ((const T *)lent[0])[row * each + at % each];
    stop(s, number, BAD_VALUE);
    return 0;
}

/* Memory that the threads of a block share, an entry for each: the same in all kernels, so what follows waits. */
INLINE char *shared_memory() {
    __shared__ double memory[MOST_THREADS];
    return (char *)memory;
}
template <class T> INLINE T *room_of() { return (T *)shared_memory(); }

INLINE float lowest(float) { return -INFINITY; }
INLINE double lowest(double) { return -INFINITY; }
INLINE int32_t lowest(int32_t) { return -2147483647 - 1; }
INLINE int64_t lowest(int64_t) { return -9223372036854775807ll - 1; }
INLINE uint8_t lowest(uint8_t) { return 0; }
INLINE float highest(float) { return INFINITY; }
INLINE double highest(double) { return INFINITY; }
INLINE int32_t highest(int32_t) { return 2147483647; }
INLINE int64_t highest(int64_t) { return 9223372036854775807ll; }
INLINE uint8_t highest(uint8_t) { return 255; }

/* Of a float its integer part; what T cannot hold becomes its lowest number, as processors and C have it. */
template <class T, class R> INLINE T whole(R x) {
    const R low = (R)lowest(T());
    return x >= low && x < -low ? (T)x : lowest(T());
}

/* How entries become one, and what they are joined to first; of largest and smallest a NaN stays one. */
#define JOIN(NAME, START, RESULT)                                                                               \
    struct NAME {                                                                                               \
        template <class T> INLINE T start(T) { return START; }                                                  \
        template <class T> INLINE T of(T a, T b) { return RESULT; }                                             \
    };
JOIN(plus, 0, a + b)
JOIN(times, 1, a * b)
JOIN(most, lowest(T()), b > a || b != b ? b : a)
JOIN(least, highest(T()), b < a || b != b ? b : a)
JOIN(both, 1, a && b)
JOIN(either, 0, a || b)

/* What a block's lanes have at room[lane * width + column], joined as a tree; all threads call it. It is at room[column]
 * then. lanes is a power of two. */
template <class J, class T> INLINE void join_lanes(T *room, int lane, int lanes, int column, int width) {
    __syncthreads();
    for (int half = lanes / 2; half; half /= 2) {
        if (lane < half)
            room[lane * width + column] = J::of(room[lane * width + column], room[(lane + half) * width + column]);
        __syncthreads();
    }
}

/* What kernels in CUDA are made of: those in kernels.cu, and those that dtrain generates for a plan.
 *
 * A kernel's first arguments are the state of the run and the kernel's number in its plan. Once the state says why the
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
#define KERNEL extern "C" __global__ void __launch_bounds__(256)

INLINE float as_float(int32_t bits) { return __int_as_float(bits); }
INLINE int32_t as_bits(float f) { return __float_as_int(f); }

#include "numbers.h"

INLINE float dt_exp(float x) { return exp_float(x); }
INLINE double dt_exp(double x) { return exp(x); }
INLINE float dt_log(float x) { return log_float(x); }
INLINE double dt_log(double x) { return log(x); }
INLINE float dt_tanh(float x) { return tanh_float(x); }
INLINE double dt_tanh(double x) { return tanh(x); }
INLINE float dt_sqrt(float x) { return sqrtf(x); }
INLINE double dt_sqrt(double x) { return sqrt(x); }

enum { OK = 0, BAD_VALUE = 1, NOT_FINITE = 3, STOPPED = 4 };

/* status: one of these; number: of the kernel that changed it; step: how many steps are done; until: a step in which
 * it is not 0 is the last, where there is one. */
struct state {
    int64_t status, number, step;
    const float *until;
};

INLINE bool stopped(const state *s) { return s->status != OK; }
INLINE void stop(state *s, int64_t number, int why) {
    if (atomicCAS((unsigned long long *)&s->status, 0ull, (unsigned long long)why) == 0) s->number = number;
}

#define AT ((int64_t)blockIdx.x * blockDim.x + threadIdx.x)
#define STRIDE ((int64_t)gridDim.x * blockDim.x)

/* The sum over a block's lanes of what each thread has at room[lane * width + column], added up as a tree; all threads
 * call it. It is at room[column] then. lanes is a power of two. */
template <class T> INLINE void add_lanes(T *room, int lane, int lanes, int column, int width) {
    __syncthreads();
    for (int half = lanes / 2; half; half /= 2) {
        if (lane < half) room[lane * width + column] += room[(lane + half) * width + column];
        __syncthreads();
    }
}

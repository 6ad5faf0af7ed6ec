/* What CUDA's sources need to be C++: a grid's threads run one after another, and where they wait for one another
 * (__syncthreads) as fibres. */
#include <cfloat>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#if FLUSH
#include <xmmintrin.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __shared__ static /* one block runs at a time */

struct alignas(16) float4 {
    float x, y, z, w;
};
struct dim3 {
    unsigned x, y, z;
};
static dim3 gridDim, blockDim, blockIdx, threadIdx;

static inline float __int_as_float(int32_t i) {
    float f;
    memcpy(&f, &i, 4);
    return f;
}
static inline int32_t __float_as_int(float f) {
    int32_t i;
    memcpy(&i, &f, 4);
    return i;
}
static inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return (unsigned __int128)a * b >> 64; }
static inline unsigned long long atomicCAS(unsigned long long *at, unsigned long long old, unsigned long long now) {
    const unsigned long long was = *at;
    if (was == old) *at = now;
    return was;
}

/* What is right does not hang on the order of threads between two barriers; STANDIN_THREADS=reverse turns it round. */
static unsigned nth_thread(unsigned i) {
    static const char *const order = getenv("STANDIN_THREADS");
    static const bool reverse = order && !strcmp(order, "reverse");
    return reverse ? blockDim.x - 1 - i : i;
}

namespace fibres {
constexpr int MOST = 1024;
struct fibre {
    jmp_buf at;
    ucontext_t first;
    bool made, done;
    char stack[32768];
};
/* One memory for all libraries, which is lent to the one that runs; the fibres that another made are not its own. */
struct memory {
    const void *owner;
    fibre all[MOST];
};
static memory *lent;
static fibre *all;
static jmp_buf home;
static volatile int current;
static std::function<void()> *job;

static void leave() {
    if (!_setjmp(all[current].at)) _longjmp(home, 1);
}
static void body() {
    for (;;) {
        (*job)();
        all[current].done = true;
        leave();
    }
}
static void enter(int t) {
    fibre &f = all[t];
    current = t;
    threadIdx = {(unsigned)t, 0, 0};
    if (_setjmp(home)) return;
    if (f.made) _longjmp(f.at, 1);
    f.made = true;
    getcontext(&f.first);
    f.first.uc_stack.ss_sp = f.stack;
    f.first.uc_stack.ss_size = sizeof f.stack;
    makecontext(&f.first, body, 0);
    setcontext(&f.first);
}
static void block(std::function<void()> &thread) {
    if (lent->owner != &home)
        for (int t = 0; t < MOST; t++) lent->all[t].made = false;
    lent->owner = &home;
    all = lent->all;
    job = &thread;
    for (unsigned t = 0; t < blockDim.x; t++) all[t].done = false;
    for (volatile bool more = true; more;) {
        more = false;
        for (volatile unsigned i = 0; i < blockDim.x; i = i + 1) {
            const unsigned t = nth_thread(i);
            if (!all[t].done) {
                enter(t);
                more = more || !all[t].done;
            }
        }
    }
}
} // namespace fibres

extern "C" size_t standin_memory(void *memory) {
    fibres::lent = (fibres::memory *)memory;
    return sizeof(fibres::memory);
}

static inline void __syncthreads() { fibres::leave(); }

static void run(const unsigned *grid, const unsigned *block, bool waits, std::function<void()> thread) {
#if FLUSH
    struct flush {
        const unsigned before = _mm_getcsr();
        flush() { _mm_setcsr(before | 0x8040); }
        ~flush() { _mm_setcsr(before); }
    } flushing;
#endif
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    for (unsigned y = 0; y < grid[1]; y++)
        for (unsigned x = 0; x < grid[0]; x++) {
            blockIdx = {x, y, 0};
            if (waits) fibres::block(thread);
            else
                for (unsigned i = 0; i < block[0]; i++) {
                    threadIdx = {nth_thread(i), 0, 0};
                    thread();
                }
        }
}

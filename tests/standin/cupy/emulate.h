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
    bool made;
    char stack[32768];
};
/* One memory for all libraries, which is lent to the one that runs; the fibres that another made are not its own. */
struct memory {
    const void *owner;
    fibre all[MOST];
};
static memory *lent;
static jmp_buf home;
static volatile int current;
static std::function<void()> *job;
/* Of each thread of the block on which fibre it runs, and whether it has ended; threads begun, fibres in use. */
static int on[MOST];
static bool done[MOST];
static volatile unsigned begun, used;

static void be(unsigned t) {
    current = t;
    threadIdx = {t, 0, 0};
}
static void leave() {
    if (!_setjmp(lent->all[on[current]].at)) _longjmp(home, 1);
}
/* A thread that ends without waiting leaves its fibre to the next: only those that wait take another. */
static void body(int mine) {
    for (;;) {
        (*job)();
        done[current] = true;
        if (begun < blockDim.x) {
            be(nth_thread(begun));
            begun = begun + 1;
            on[current] = mine;
        } else leave();
    }
}
static void enter(unsigned t) {
    be(t);
    fibre &f = lent->all[on[t]];
    if (_setjmp(home)) return;
    if (f.made) _longjmp(f.at, 1);
    f.made = true;
    getcontext(&f.first);
    f.first.uc_stack.ss_sp = f.stack;
    f.first.uc_stack.ss_size = sizeof f.stack;
    makecontext(&f.first, (void (*)())body, 1, on[t]);
    setcontext(&f.first);
}
static void block(std::function<void()> &thread) {
    if (lent->owner != &home)
        for (int t = 0; t < MOST; t++) lent->all[t].made = false;
    lent->owner = &home;
    job = &thread;
    begun = used = 0;
    for (unsigned t = 0; t < blockDim.x; t++) done[t] = false;
    while (begun < blockDim.x) {
        const unsigned t = nth_thread(begun);
        begun = begun + 1;
        on[t] = used;
        used = used + 1;
        enter(t);
    }
    for (volatile bool more = true; more;) {
        more = false;
        for (volatile unsigned i = 0; i < blockDim.x; i = i + 1) {
            const unsigned t = nth_thread(i);
            if (!done[t]) {
                enter(t);
                more = more || !done[t];
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

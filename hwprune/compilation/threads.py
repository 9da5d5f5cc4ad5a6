"""Threads of a library: all go through the steps of a run together and meet after each (docs/compilation.md)."""

from __future__ import annotations

from collections.abc import Sequence

from hwprune.compilation import c_code

#: How long a thread that waits for the next run keeps its core: longer than the pause between two inferences in a row.
SPIN_NS = 100_000

#: Looks at a meeting (0.1 ms) before the core is offered to others, whom it may be that the thread waits for.
LOOKS = 2_000

#: One step of a run is finished by all threads.
MEET = "    meet();"

_POOL = """
#include <stdatomic.h>

/* Of the device's C library, as the clock's. */
struct signals { uint64_t bits[16]; };
typedef uintptr_t thread;
int pthread_create(thread *, const void *, void *(*)(void *), void *);
int pthread_join(thread, void **);
int pthread_sigmask(int, const struct signals *, struct signals *);
int sched_yield(void);
int sigfillset(struct signals *);
long syscall(long, ...);
#define SIG_SETMASK 2
#ifdef __aarch64__
#define SYS_futex 98
#else
#define SYS_futex 202
#endif

#define THREADS %(threads)d
#define OWN_LINE __attribute__((aligned(128)))
static void rest(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int steps(int32_t t, int32_t index, const int32_t *numbers, const float *input, float *output);

/* What the current run is, published by the count of runs. */
static struct { int32_t index; const int32_t *numbers; const float *input; float *output; } job;
static _Atomic uint32_t runs OWN_LINE, sleeping OWN_LINE, arrived OWN_LINE, meetings OWN_LINE;
static thread workers[THREADS - 1] OWN_LINE;
static int started, ending, is_forgetful;

/* Sleep while there is no other run than the last one, and end that. Not by condition variables: C libraries have
   several versions of them, of which a library that asks for none gets the oldest. */
#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129
static void sleep_after(uint32_t last) { syscall(SYS_futex, &runs, FUTEX_WAIT_PRIVATE, last, 0, 0, 0); }
static void wake_all(void) { syscall(SYS_futex, &runs, FUTEX_WAKE_PRIVATE, INT32_MAX, 0, 0, 0); }

/* Wait for all threads; the last to come lets the others go. */
static void meet(void)
{
    uint32_t meeting = atomic_load_explicit(&meetings, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&arrived, 1, memory_order_acq_rel) == THREADS - 1) {
        atomic_store_explicit(&arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&meetings, meeting + 1, memory_order_release);
        return;
    }
    for (int32_t looks = 0; atomic_load_explicit(&meetings, memory_order_acquire) == meeting;)
        if (looks < %(looks)d)
            looks++, rest();
        else
            sched_yield();
}

/* Wait for another run than the last one: awake as long as it may follow at once, then asleep. */
static void wait_for_run(uint32_t last)
{
    int64_t end = now_ns() + %(spin_ns)d;
    do
        for (int32_t looks = 0; looks < 32; looks++, rest())
            if (atomic_load_explicit(&runs, memory_order_acquire) != last)
                return;
    while (now_ns() < end);
    atomic_fetch_add(&sleeping, 1);
    while (atomic_load(&runs) == last)
        sleep_after(last);
    atomic_fetch_sub(&sleeping, 1);
}

static void announce(void)
{
    /* Whoever falls asleep counts itself first and looks at the runs then, here it is the other way round. */
    atomic_fetch_add(&runs, 1);
    if (atomic_load(&sleeping))
        wake_all();
}

static void *work(void *number)
{
    for (uint32_t run = 0;; run++) {
        wait_for_run(run);
        if (ending)
            return 0;
        steps((int32_t)(intptr_t)number, job.index, job.numbers, job.input, job.output);
        meet();
    }
}

/* A forked process has none of its parent's threads. */
static void forget(void)
{
    started = 0;
    runs = sleeping = arrived = meetings = 0;
}

/* glibc's way, by which an unloaded library is forgotten too, or musl's, which unloads none. */
#pragma weak __register_atfork
#pragma weak pthread_atfork
int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *);
int pthread_atfork(void (*)(void), void (*)(void), void (*)(void));
void __cxa_finalize(void *);
static int call_in_children(void (*function)(void))
{
    return __register_atfork ? __register_atfork(0, 0, function, &job) : pthread_atfork(0, 0, function);
}

/* Started by the first run, so that they inherit the cores that the process has been given until then. */
static int start(void)
{
    struct signals all, before;
    is_forgetful = is_forgetful || !call_in_children(forget);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the caller's */
    while (started < THREADS - 1 && !pthread_create(&workers[started], 0, work, (void *)(intptr_t)(started + 1)))
        started++;
    pthread_sigmask(SIG_SETMASK, &before, 0);
    return started == THREADS - 1;
}

static int run(int32_t index, const int32_t *numbers, const float *input, float *output)
{
    if (started < THREADS - 1 && !start())
        return 2;
    job.index = index, job.numbers = numbers, job.input = input, job.output = output;
    announce();
    int status = steps(0, index, numbers, input, output);
    meet();
    return status;
}

__attribute__((destructor)) static void stop(void)
{
    ending = 1;
    announce();
    while (started)
        pthread_join(workers[--started], 0);
    __cxa_finalize(&job);
}
"""

_STEPS = """
static int steps(int32_t t, int32_t index, const int32_t *numbers, const float *input, float *output)
{
%(body)s
    return 0;
}
"""

#: C text of what a convolution needs that computes some rows only; :mod:`kernels.conv` calls it.


def function(name: str, arguments: Sequence[tuple[str, str]], body: str, threads: int) -> str:
    """C text of an exported function that returns 0 unless its body returns something else.

    Args:
        name: of the function.
        arguments: name and type of each; names are among ``index``, ``numbers``, ``input`` and ``output``.
        body: statements; with several threads, each goes through them as number ``t``.
        threads: how many there are.
    """
    head = f"\nint {name}({', '.join(kind + argument for argument, kind in arguments)})\n"
    if threads == 1:
        return f"{head}{{\n{body}\n    return 0;\n}}\n"
    known = {argument for argument, _ in arguments}
    values = ", ".join(argument if argument in known else "0" for argument in ("index", "numbers", "input", "output"))
    pool = _POOL % {"threads": threads, "looks": LOOKS, "spin_ns": SPIN_NS}
    return f"{c_code.CLOCK}{pool}{_STEPS % {'body': body}}{head}{{\n    return run({values});\n}}\n"


def in_order(calls: Sequence[str], threads: int) -> str:
    """C text of calls that need each other's results."""
    return (f"\n{MEET}\n" if threads > 1 else "\n").join(calls)


def by_thread(calls: Sequence[str]) -> str:
    """C statement in which every thread does its own call, and those without one nothing."""
    return " else ".join(f"if (t == {thread}) {call}" for thread, call in enumerate(calls))

"""Threads of a library: all go through the steps of a run together and meet after each (docs/compilation.md)."""

from __future__ import annotations

from collections.abc import Sequence

#: How long a thread that waits for the next run keeps its core: longer than the pause between two inferences in a row.
SPIN_NS = 100_000

#: Looks at a meeting (0.1 ms) before the core is offered to others, whom it may be that the thread waits for.
LOOKS = 2_000

#: One step of a run is finished by all threads.
MEET = "    meet();"

_POOL = """
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#define THREADS %(threads)d
#define OWN_LINE __attribute__((aligned(128)))
#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__) || defined(__arm__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() (void)0
#endif

static int steps(int32_t t, int32_t index, const int32_t *numbers, const float *input, float *output);

/* What the current run is, published by the count of runs. */
static struct { int32_t index; const int32_t *numbers; const float *input; float *output; } job;
static _Atomic uint32_t runs OWN_LINE, sleeping OWN_LINE, arrived OWN_LINE, meetings OWN_LINE;
static pthread_t workers[THREADS - 1] OWN_LINE;
static int started, ending, is_forgetful;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t announced = PTHREAD_COND_INITIALIZER;

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
            looks++, PAUSE();
        else
            sched_yield();
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Wait for another run than the last one: awake as long as it may follow at once, then asleep. */
static void wait_for_run(uint32_t last)
{
    int64_t end = now_ns() + %(spin_ns)d;
    do
        for (int32_t looks = 0; looks < 32; looks++, PAUSE())
            if (atomic_load_explicit(&runs, memory_order_acquire) != last)
                return;
    while (now_ns() < end);
    pthread_mutex_lock(&mutex);
    atomic_fetch_add(&sleeping, 1);
    while (atomic_load(&runs) == last)
        pthread_cond_wait(&announced, &mutex);
    atomic_fetch_sub(&sleeping, 1);
    pthread_mutex_unlock(&mutex);
}

static void announce(void)
{
    /* Whoever falls asleep counts itself first and looks at the runs then, here it is the other way round. */
    atomic_fetch_add(&runs, 1);
    if (!atomic_load(&sleeping))
        return;
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&announced);
    pthread_mutex_unlock(&mutex);
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
    mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    announced = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

/* Started by the first run, so that they inherit the cores that the process has been given until then. */
static int start(void)
{
    sigset_t all, before;
    is_forgetful = is_forgetful || !pthread_atfork(0, 0, forget);
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
    return f"{pool}{_STEPS % {'body': body}}{head}{{\n    return run({values});\n}}\n"


def in_order(calls: Sequence[str], threads: int) -> str:
    """C text of calls that need each other's results."""
    return (f"\n{MEET}\n" if threads > 1 else "\n").join(calls)


def by_thread(calls: Sequence[str]) -> str:
    """C statement in which every thread does its own call, and those without one nothing."""
    return " else ".join(f"if (t == {thread}) {call}" for thread, call in enumerate(calls))

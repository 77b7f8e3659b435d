/* System calls that the libc of older distributions does not wrap, and clocks. Linux only. */
#ifndef GW_SYS_H
#define GW_SYS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define GW_CLOSE_RANGE_UNSHARE 2u

/* The calling thread handles no signal but those of its own faults. */
static inline void gw_take_no_signals(void) {
    static const int faults[] = {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    sigset_t all;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
}

/* Give the calling thread a descriptor table of its own that holds 0, 1, 2 and the two given descriptors.
 * Signals are left to other threads then: a handler tells the loop by a write to a descriptor of the process (Python's
 * wake-up, libuv's pipe), and here that number is closed, or a device's socket.
 * Falls back to unshare(2) where close_range(2) is missing (before Linux 5.9). 0, or -1 with errno. */
static inline int gw_own_descriptors(int keep_a, int keep_b) {
    gw_take_no_signals();
#ifdef __SANITIZE_THREAD__
    /* The sanitizer takes a descriptor's number for one thing in the whole process; with a table for each thread it would
     * see races between sockets that only share a number. */
    (void)keep_a, (void)keep_b;
    return 0;
#endif
    unsigned lo = keep_a < keep_b ? (unsigned)keep_a : (unsigned)keep_b;
    unsigned hi = keep_a < keep_b ? (unsigned)keep_b : (unsigned)keep_a;
    if (syscall(SYS_close_range, hi + 1, ~0u, GW_CLOSE_RANGE_UNSHARE) == 0) {
        if (lo > 3) syscall(SYS_close_range, 3u, lo - 1, 0u);
        if (hi > lo + 1) syscall(SYS_close_range, lo + 1, hi - 1, 0u);
        return 0;
    }
    if (unshare(CLONE_FILES) != 0) return -1;
    long top = sysconf(_SC_OPEN_MAX);
    if (top < 0 || top > 65536) top = 65536;
    for (int fd = 3; fd < top; fd++)
        if (fd != keep_a && fd != keep_b) close(fd);
    return 0;
}

/* Free pages of the heap go back to the system, also those between others in use; a few ms for some ten MB. */
static inline void gw_trim_heap(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}
static inline uint64_t gw_now_ms(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}
static inline uint64_t gw_monotonic_ms(void) { return gw_now_ms(CLOCK_MONOTONIC); }
static inline uint64_t gw_unix_ms(void) { return gw_now_ms(CLOCK_REALTIME); }
#endif

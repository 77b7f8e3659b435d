/* Single-producer, single-consumer ring of variable-length records, with an eventfd for the sleeper.
 *
 * Memory order: the producer writes the record, then stores `tail` (release or stronger); the consumer loads `tail`
 * with acquire, reads, then stores `head` with release. Wake-up: the consumer stores `asleep` = 1 and looks once more;
 * the producer publishes and then looks at `asleep`; all four are seq_cst, so one of the two sees the other: no
 * wake-up is lost, and at most one eventfd write is made for each sleep.
 */
#ifndef GW_RING_H
#define GW_RING_H
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GW_RING_WRAP 0xFFFFFFFFu

typedef struct {
    uint8_t *buf;
    uint64_t capacity;  /* bytes, power of two */
    int event_fd;       /* belongs to whoever made it */
    _Alignas(64) uint64_t head; /* consumer's */
    uint64_t tail_seen;         /* consumer's copy of tail */
    _Alignas(64) uint64_t tail; /* producer's, published */
    uint64_t tail_next;         /* producer's, not published yet */
    uint64_t head_seen;         /* producer's copy of head */
    _Alignas(64) int asleep;
} gw_ring_t;

static inline uint64_t gw_ring_need(uint32_t size) { return 8 + (((uint64_t)size + 7) & ~7ull); }

static inline int gw_ring_init(gw_ring_t *r, uint64_t capacity, int event_fd) {
    memset(r, 0, sizeof *r);
    r->buf = (uint8_t *)malloc(capacity);
    /* Touched now: the process has its size from the start, and no record waits for a page fault. (A memset would
     * become a calloc, which touches nothing.) */
    for (uint64_t at = 0; r->buf && at < capacity; at += 4096) *(volatile uint8_t *)(r->buf + at) = 0;
    r->capacity = capacity;
    r->event_fd = event_fd;
    return r->buf ? 0 : -1;
}
static inline void gw_ring_free(gw_ring_t *r) {
    free(r->buf);
    r->buf = NULL;
}
/* Producer: bytes that are certainly free now. */
static inline uint64_t gw_ring_room(gw_ring_t *r) {
    r->head_seen = __atomic_load_n(&r->head, __ATOMIC_ACQUIRE);
    return r->capacity - (r->tail_next - r->head_seen);
}
/* Producer: place for one record of `size` bytes, or NULL when full. Fill it, then publish. */
static inline void *gw_ring_reserve(gw_ring_t *r, uint32_t size) {
    uint64_t need = gw_ring_need(size);
    uint64_t at = r->tail_next & (r->capacity - 1);
    uint64_t to_end = r->capacity - at;
    uint64_t all = to_end < need ? to_end + need : need;
    if (r->capacity - (r->tail_next - r->head_seen) < all && gw_ring_room(r) < all) return NULL;
    if (to_end < need) {
        *(uint32_t *)(r->buf + at) = GW_RING_WRAP;
        r->tail_next += to_end;
        at = 0;
    }
    *(uint32_t *)(r->buf + at) = size;
    r->tail_next += need;
    return r->buf + at + 8;
}
/* Producer: show everything reserved so far, wake the consumer if it sleeps. */
static inline void gw_ring_publish(gw_ring_t *r) {
    if (r->tail == r->tail_next) return;
    __atomic_store_n(&r->tail, r->tail_next, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&r->asleep, __ATOMIC_SEQ_CST) && __atomic_exchange_n(&r->asleep, 0, __ATOMIC_SEQ_CST)) {
        uint64_t one = 1;
        ssize_t n;
        do n = write(r->event_fd, &one, 8);
        while (n < 0 && errno == EINTR);
    }
}
/* Consumer: next record and its size, or NULL. Call gw_ring_pop when done with it. */
static inline void *gw_ring_peek(gw_ring_t *r, uint32_t *size) {
    for (;;) {
        if (r->head == r->tail_seen) {
            r->tail_seen = __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE);
            if (r->head == r->tail_seen) return NULL;
        }
        uint64_t at = r->head & (r->capacity - 1);
        uint32_t n = *(uint32_t *)(r->buf + at);
        if (n != GW_RING_WRAP) {
            *size = n;
            return r->buf + at + 8;
        }
        __atomic_store_n(&r->head, r->head + (r->capacity - at), __ATOMIC_RELEASE);
    }
}
static inline void gw_ring_pop(gw_ring_t *r, uint32_t size) {
    __atomic_store_n(&r->head, r->head + gw_ring_need(size), __ATOMIC_RELEASE);
}
/* Consumer: about to sleep; 1: stay awake, there is something already. */
static inline int gw_ring_sleep(gw_ring_t *r) {
    __atomic_store_n(&r->asleep, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&r->tail, __ATOMIC_SEQ_CST) == r->head) return 0;
    __atomic_store_n(&r->asleep, 0, __ATOMIC_SEQ_CST);
    return 1;
}
#endif
